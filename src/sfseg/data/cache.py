"""Decoded images on disk, so that a scene is decoded and resized once and then only mapped.

One file a picture, named by the SHA-256 of the image file's bytes and of everything else its
pixels depend on; so a changed file, size, id table or library never meets an old picture, and
runs, processes and sets that need the same picture share it. A file appears whole or not at all:
several processes may write the same one.
"""

import hashlib
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from sfseg.data.files import Files
from sfseg.data.folder import Picture, require_equal_sizes
from sfseg.data.geometry import EvalView, Image, Size, View, resize_image, resize_label, size_by
from sfseg.data.images import decode_image, image_size, read_bytes
from sfseg.errors import ConfigError

log = logging.getLogger(__name__)

FORMAT = "1"
SAMPLED = 50


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
        return Cache(scenes, Path(self.folder).expanduser() / "pictures", view, with_labels)


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
        # Position -> where its pictures lie and how large its file is: hashed once a process.
        self._known: dict[int, tuple[Path, Path | None, Size]] = {}

    def __call__(self, index: int) -> Picture:
        """One scene; :class:`sfseg.data.folder.Read`."""
        if index in self._known:
            image_path, label_path, full = self._known[index]
            image = _mapped(image_path)
            label = None if label_path is None else _mapped(label_path)
            if image is not None and (label_path is None or label is not None):
                return Picture(image, label, full)
        return self._made(index)

    def announce(self, title: str) -> None:
        """Log how much room the pictures will take, and warn where there is less."""
        count = len(self.files)
        if not count:
            return
        chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(int))
        sizes = [self._sizes(self.files.size(int(index))) for index in chosen]
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
        size, label_size = self._sizes(full)
        image_path = self._path(data, f"image {size}")
        image = _mapped(image_path)
        if image is None:
            decoded = decode_image(data, path, self.files.limits.max_pixels)
            image = self._keep(image_path, resize_image(decoded, size))
        label, label_path = None, None
        if self.with_labels:
            label_data = read_bytes(self.files.label_file(index))
            label_path = self._path(label_data, f"label {label_size} of {full}{self._meaning()}")
            label = _mapped(label_path)
            if label is None:
                label = self._keep(
                    label_path, self._decoded_label(label_data, index, full, label_size)
                )
        self._known[index] = image_path, label_path, full
        return Picture(image, label, full)

    def _decoded_label(self, data: bytes, index: int, full: Size, size: Size) -> Image:
        label = self.files.decode_label(data, index)
        require_equal_sizes(self.files.name(index), full, label)
        return resize_label(label, size)

    def _sizes(self, full: Size) -> tuple[Size, Size]:
        """Of the image and of the label, as kept."""
        if isinstance(self.view, EvalView):
            return size_by(self.view.size, full), size_by(self.view.label_size, full)
        size = self.view.fixed_size(full) or full
        return size, size

    def _meaning(self) -> str:
        """What the ids in a label depend on besides its file."""
        files = self.files
        return (
            f"{files.rgb} {files.fit_labels} {files.labels.palette} {files.table.tobytes().hex()}"
        )

    def _path(self, data: bytes, what: str) -> Path:
        digest = hashlib.sha256(data)
        digest.update(f"\0{FORMAT} cv2 {cv2.__version__} {what}".encode())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.npy"

    def _keep(self, path: Path, pixels: Image) -> Image:
        """Write a picture; a disk that takes no more only costs the speed."""
        if self._broken:
            return pixels
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.save(file, pixels, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            self._broken = True
            with suppress(OSError):
                partial.unlink()
            log.warning("the cache takes no more pictures, they are decoded each time: %s", error)
        return pixels


def _mapped(path: Path) -> Image | None:
    """A picture on disk; None when there is none, or none that can be read."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(stored) if stored.dtype == np.uint8 else None


def _first_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
