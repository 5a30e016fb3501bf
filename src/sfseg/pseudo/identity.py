"""What a store of pseudo-labels was made for, and in what another use of it differs."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfseg.errors import ConfigError, DataError
from sfseg.pseudo.files import disk_errors, write_whole
from sfseg.types import IGNORE, size_text

log = logging.getLogger(__name__)

FORMAT = 1
RECORD, NAMES, SIZES, CONTENT = "store.json", "names.json", "sizes.npy", "content.npy"
KEYS = {"images", "names", "sizes", "classes", "source", "confidence"}
SHOWN = 3

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Identity:
    """The images, classes and source model that pseudo-labels belong to.

    Args:
        names: one name an image, in the order of the data set; never used as a path.
        sizes: (height, width) of each image's label map.
        classes: names of the label space, in the order of their ids.
        source: digest of the checkpoint of the source model.
        content: (N,) a number for the content of each image, 0 where it is not known; None where
            nobody has looked.

    Raises:
        ValueError: no images, names that are not distinct, not one size or content for each, too
            many classes.
    """

    names: Sequence[str]
    sizes: Sequence[Size]
    classes: Sequence[str]
    source: str
    content: NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("names must be distinct and at least one")
        if len(self.sizes) != len(self.names) or min(min(size) for size in self.sizes) < 1:
            raise ValueError(
                f"sizes must be one positive (height, width) an image, got {len(self.sizes)} "
                f"for {len(self.names)} images"
            )
        if self.content is not None and self.content.shape != (len(self.names),):
            raise ValueError(f"content must be one number an image, got {self.content.shape}")
        if not 2 <= len(self.classes) < IGNORE:
            raise ValueError(f"classes must be 2 to 254 names, got {len(self.classes)}")

    def write(self, folder: Path, *, with_confidence: bool) -> None:
        """Record it in a folder; the record itself comes last."""
        sizes = np.asarray(self.sizes, "<u4")
        if (sizes == sizes[0]).all():
            sizes = sizes[:1]
        record = {**self._digests(), "confidence": with_confidence}
        with disk_errors(folder, "the record of the pseudo-labels cannot be written"):
            write_whole(folder / NAMES, json.dumps(list(self.names)).encode())
            with (folder / SIZES).open("wb") as file:
                np.save(file, sizes, allow_pickle=False)
            if self.content is not None:
                with (folder / CONTENT).open("wb") as file:
                    np.save(file, self.content.astype("<u8"), allow_pickle=False)
            write_whole(folder / RECORD, json.dumps(record, indent=2).encode())

    def require_same(self, folder: Path) -> None:
        """Compare with what is recorded in a folder.

        Raises:
            ConfigError: names what differs on both sides.
        """
        stored, own = read_record(folder), self._digests()
        describe: dict[str, Callable[[Path], str]] = {
            "classes": lambda _: f"classes {stored['classes']}, here they are {own['classes']}",
            "names": self._other_images,
            "sizes": self._other_size,
            "source": lambda _: f"source model {stored['source']}, here it is {own['source']}",
        }
        for key, text in describe.items():
            if stored[key] != own[key]:
                raise ConfigError(
                    f"the pseudo-labels in {folder} were made for {text(folder)}; give what they "
                    "were made for, or another folder to make new ones"
                )
        if self.content is not None:
            self._require_same_content(folder, self.content, is_known="content" in stored)

    def _require_same_content(
        self, folder: Path, own: NDArray[np.uint64], *, is_known: bool
    ) -> None:
        if not is_known:
            log.warning(
                "the pseudo-labels in %s do not say what was in the images that they were made "
                "for: it was not checked that it is in those of the same names here", folder,
            )  # fmt: skip
            return
        with _damage(folder):
            stored = np.load(folder / CONTENT, allow_pickle=False)
            other = np.flatnonzero((stored != own) & (stored != 0) & (own != 0))
        if len(other):
            more = f" and {len(other) - 1} more" * (len(other) > 1)
            raise ConfigError(
                f"the pseudo-labels in {folder} were made for other images of the same names: "
                f"{self.names[other[0]]}{more} had another content; give what they were made for, "
                "or another folder to make new ones"
            )

    def _digests(self) -> dict[str, Any]:
        sizes = np.asarray(self.sizes, "<u4").tobytes()
        looked_at = {} if self.content is None else {"content": CONTENT}
        return {
            "format": FORMAT,
            "images": len(self.names),
            "names": hashlib.sha256(json.dumps(list(self.names)).encode()).hexdigest(),
            "sizes": hashlib.sha256(sizes).hexdigest(),
            "classes": list(self.classes),
            "source": self.source,
            **looked_at,
        }

    def _other_images(self, folder: Path) -> str:
        with _damage(folder):
            stored = [str(name) for name in json.loads((folder / NAMES).read_bytes())]
        there, here = set(stored), set(self.names)
        lost = [name for name in stored if name not in here]
        gained = [name for name in self.names if name not in there]
        text = f"{len(stored)} images, here are {len(self.names)}"
        if not lost and not gained:
            moved = [k for k, name in enumerate(stored) if name != self.names[k]]
            if not moved:
                return f"{text} of the same names, but {RECORD} says otherwise: it is damaged"
            k = moved[0]
            return f"{text} in another order: number {k} was {stored[k]}, is {self.names[k]}"
        for verb, names in (("gone", lost), ("new", gained)):
            if names:
                more = ", ..." if len(names) > SHOWN else ""
                text += f"; {len(names)} {verb} since: {', '.join(names[:SHOWN])}{more}"
        return text

    def _other_size(self, folder: Path) -> str:
        stored = np.broadcast_to(read_sizes(folder, len(self.names)), (len(self.names), 2))
        own = np.asarray(self.sizes)
        k = int((stored != own).any(axis=1).argmax())
        sizes = size_text(stored[k].tolist()), size_text(own[k].tolist())
        return "{} of {} pixels, here it has {} (width x height)".format(self.names[k], *sizes)


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Errors of reading a store's records, named as damage to it."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"the pseudo-labels in {folder} are damaged: {error!r}; delete the folder to make "
            "them again",
            kind="damaged pseudo-labels",
            path=folder,
        ) from error


def read_record(folder: Path) -> dict[str, Any]:
    """What was recorded of a store.

    Raises:
        ConfigError: there is no store, or one of another version.
        DataError: it cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ConfigError(f"{folder} holds no pseudo-labels; there is no {RECORD} in it")
    with _damage(folder):
        record: dict[str, Any] = json.loads(path.read_bytes())
        version = record["format"]
        if version == FORMAT and (lacking := sorted(KEYS - set(record))):
            raise KeyError(f"{RECORD} lacks {lacking}")
    if version != FORMAT:
        raise ConfigError(
            f"the pseudo-labels in {folder} have format {version}, this version of sfseg has "
            f"{FORMAT}; use the version that made them, or another folder"
        )
    return record


def read_sizes(folder: Path, images: int) -> NDArray[np.int64]:
    """(N, 2) heights and widths; (1, 2) where all are the same.

    Raises:
        DataError: they cannot be read, or are not for that many images.
    """
    with _damage(folder):
        sizes: NDArray[np.int64] = np.load(folder / SIZES, allow_pickle=False).astype(np.int64)
        if sizes.shape not in ((1, 2), (images, 2)):
            raise ValueError(f"{SIZES} has {sizes.shape} entries for {images} images")
        return sizes
