"""Decoded images on disk, so that a scene is decoded and resized once and then only mapped.

One file a picture, named by the SHA-256 of the image file's bytes and of everything else its
pixels depend on; so a changed file, size, id table or library never meets an old picture, and
runs, processes and sets that need the same picture share it. A file appears whole or not at all:
several processes may write the same one.
"""

import hashlib
import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.files import Files
from sfseg.data.folder import Picture, require_equal_sizes
from sfseg.data.geometry import EvalView, Image, Size, View, resize_image, resize_label, size_by
from sfseg.data.headers import image_size
from sfseg.data.images import read_bytes
from sfseg.errors import ConfigError
from sfseg.storage.atomic import write_whole

log = logging.getLogger(__name__)

FORMAT = "2"
"""Goes up when the same file is read into other pixels than before."""
SAMPLED = 50
DIGEST = 32
"""Bytes of a SHA-256."""


@dataclass(frozen=True)
class CacheSettings:
    """Whether and where decoded images are kept.

    Args:
        kind: ``memmap`` or ``none``.
        folder: may be shared by runs; it grows and is never cleared by sfseg.

    Raises:
        ValueError: another kind.
    """

    kind: Literal["memmap", "none"]
    folder: str

    def __post_init__(self) -> None:
        if self.kind not in ("memmap", "none"):
            raise ValueError(f"data.cache must be memmap or none, got {self.kind!r}")

    def open(self, scenes: object, view: View | EvalView, *, with_labels: bool) -> "Cache | None":
        """The cache of a set, or None where there is none.

        Raises:
            ConfigError: the set is not stored in files.
        """
        if self.kind == "none":
            return None
        if not isinstance(scenes, Files):
            raise ConfigError(
                f"data.cache=memmap needs images in files, got {type(scenes).__name__}; "
                "set data.cache=none"
            )
        return Cache(scenes, Path(str(self.folder)).expanduser() / "pictures", view, with_labels)


class Cache:
    """Reads scenes as the dataset would, from pictures decoded and resized before.

    Args:
        files: the set.
        folder: where pictures are kept.
        view: says which size never changes: the one before random crops, or that of
            evaluation. Where the size is random, pictures keep their file's.
        with_labels: whether labels are read.
    """

    def __init__(
        self, files: Files, folder: Path, view: View | EvalView, with_labels: bool
    ) -> None:
        self.files = files
        self.folder = folder
        self.view = view
        self.with_labels = with_labels
        self._broken = False
        # What files hash to and how large images are, of those that this process has seen.
        # Arrays, of which unseen parts take no memory, since a set may have a million scenes.
        self._images = np.zeros((len(files), DIGEST), np.uint8)
        self._labels = np.zeros((len(files) if with_labels else 0, DIGEST), np.uint8)
        self._sizes = np.zeros((len(files), 2), np.int32)

    def __call__(self, index: int) -> Picture:
        """One scene; :class:`sfseg.data.folder.Read`."""
        if self._sizes[index, 0]:
            image = _mapped(self._path(self._images[index]))
            label = _mapped(self._path(self._labels[index])) if self.with_labels else None
            if image is not None and (label is not None or not self.with_labels):
                return Picture(
                    image, label, (int(self._sizes[index, 0]), int(self._sizes[index, 1]))
                )
        return self._made(index)

    def announce(self, title: str, left_out: Collection[int] = ()) -> None:
        """Log how much room the pictures will take, and warn where there is less.

        Args:
            title: the set's name.
            left_out: scenes that will not be read.
        """
        count = len(self.files)
        if not count:
            return
        chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(int)).tolist()
        chosen = [k for k in chosen if k not in left_out] or [
            next(k for k in range(count) if k not in left_out)
        ]
        sizes = [self._kept_sizes(self.files.size(index)) for index in chosen]
        mean = sum(3 * a * b + (c * d if self.with_labels else 0) for (a, b), (c, d) in sizes)
        needed = mean / len(sizes) * count
        free = shutil.disk_usage(_first_existing(self.folder)).free
        log.info(
            "cache of the %s set: %d scenes, up to %.2f GiB in %s, where %.2f GiB are free",
            title, count, needed / 2**30, self.folder, free / 2**30,
        )  # fmt: skip
        if free < needed:
            log.warning("the cache of the %s set may not fit: what does not is decoded", title)

    def _made(self, index: int) -> Picture:
        """Decode what is not on disk yet, and keep it."""
        path = self.files.image_file(index)
        data = read_bytes(path)
        full = image_size(path, data, self.files.limits.max_pixels)
        size, label_size = self._kept_sizes(full)
        digest = _digest(data, f"image {size} {self.files.value_range}")
        image = _mapped(self._path(digest))
        if image is None:
            decoded = self.files.decode_image(data, index)
            image = self._keep(self._path(digest), resize_image(decoded, size))
        label = self._made_label(index, full, label_size) if self.with_labels else None
        self._images[index], self._sizes[index] = digest, full
        return Picture(image, label, full)

    def _made_label(self, index: int, full: Size, size: Size) -> Image:
        data = read_bytes(self.files.label_file(index))
        digest = _digest(data, f"label {size} of {full}{self.files.meaning}")
        label = _mapped(self._path(digest))
        if label is None:
            label = self._keep(self._path(digest), self._decoded_label(data, index, full, size))
        self._labels[index] = digest
        return label

    def _decoded_label(self, data: bytes, index: int, full: Size, size: Size) -> Image:
        label = self.files.decode_label(data, index)
        require_equal_sizes(self.files.name(index), full, label)
        return resize_label(label, size)

    def _kept_sizes(self, full: Size) -> tuple[Size, Size]:
        """Of the image and of the label, as kept."""
        if isinstance(self.view, EvalView):
            return size_by(self.view.size, full), size_by(self.view.label_size, full)
        size = self.view.fixed_size(full) or full
        return size, size

    def _path(self, digest: NDArray[np.uint8]) -> Path:
        name = digest.tobytes().hex()
        return self.folder / name[:2] / f"{name}.npy"

    def _keep(self, path: Path, pixels: Image) -> Image:
        """Write a picture; a disk that takes no more only costs the speed."""
        if self._broken:
            return pixels
        try:
            write_whole(path, lambda file: np.save(file, pixels, allow_pickle=False))
        except OSError as error:
            self._broken = True
            log.warning("the cache takes no more pictures, they are decoded each time: %s", error)
        return pixels


def _digest(data: bytes, what: str) -> NDArray[np.uint8]:
    """(DIGEST,) of a file's content and of what is made of it."""
    digest = hashlib.sha256(data)
    digest.update(f"\0{FORMAT} cv2 {cv2.__version__} {what}".encode())
    return np.frombuffer(digest.digest(), np.uint8)


def _mapped(path: Path) -> Image | None:
    """A picture on disk; None when there is none, or none that can be read."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(stored) if stored.dtype == np.uint8 else None


def _first_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
