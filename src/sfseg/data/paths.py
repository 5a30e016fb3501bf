"""Which files a data set may name: listing folders and file lists without leaving the root."""

import logging
import os
import re
import stat
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from sfseg.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp",
        ".ppm", ".pgm", ".pnm",
    }
)  # fmt: skip

AFTER_SUFFIX = re.compile(
    rf"(?:{'|'.join(f'(?<={re.escape(suffix)})' for suffix in sorted(SUFFIXES))})\s+", re.IGNORECASE
)
"""Blanks behind the suffix of an image file."""

_SUFFIX = f"(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))})"
AT_COMMA = re.compile(rf"{_SUFFIX}\s*[,;].*{_SUFFIX}$", re.IGNORECASE)
"""Two names with a comma between them."""

MOST_PIXELS = 89_478_485
"""More are a decompression bomb to Pillow."""


@dataclass(frozen=True)
class Limits:
    """What may be opened.

    Args:
        max_pixels: largest image that is decoded; the size in a file's header is compared
            first. The default, 67 megapixels, is twice an 8K frame; Pillow reads up to 89.
        allow_links: whether links may lead out of a data set's root.
    """

    max_pixels: int = 1 << 26
    allow_links: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(
                f"max_pixels must be from 1 to {MOST_PIXELS}, Pillow's limit, got {self.max_pixels}"
            )


class PathList:
    """Many paths below one folder in one block of bytes: about 60 bytes each, not 500.

    Loader processes share the block with the main process, however long they live.

    Args:
        root: the folder.
        names: paths relative to it, with forward slashes.
    """

    def __init__(self, root: Path, names: Iterable[str] = ()) -> None:
        self.root = root
        self._block = bytearray()
        self._ends = array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add a path relative to the root."""
        self._block += os.fsencode(name)
        self._ends.append(len(self._block))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Path:
        return self.root / self.name(index)

    def __iter__(self) -> Iterator[Path]:
        return (self.root / name for name in self.names())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathList) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def name(self, index: int) -> str:
        """The path relative to the root."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        index %= len(self)
        return os.fsdecode(bytes(self._block[self._ends[index] : self._ends[index + 1]]))

    def names(self) -> Iterator[str]:
        """All relative paths, in order."""
        return (self.name(index) for index in range(len(self)))


class Root:
    """A data set's folder, and whether a path still lies in it when links are followed.

    Args:
        folder: the root; may be a link itself.
        limits: see :class:`Limits`.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self._inside: dict[str, bool] = {}

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.folder)

    def check(self, path: str | Path) -> None:
        """Raise unless the path lies in the root.

        Raises:
            DataError: a link on the way leads out of it.
        """
        if self.limits.allow_links:
            return
        parent, name = os.path.split(path)
        # A folder holds thousands of files: its own way is followed once, so a folder that is
        # replaced by a link while a process runs goes unnoticed there.
        if parent not in self._inside:
            self._inside[parent] = self._holds(os.path.realpath(parent))
        inside = self._inside[parent]
        if inside and (name == ".." or os.path.islink(path)):  # noqa: PTH114 - no Path each
            inside = self._holds(os.path.realpath(path))
        if not inside:
            raise DataError(
                f"{path} leads out of {self.folder} to {os.path.realpath(path)}; set "
                "data.limits.allow_links=true if that is meant, or remove it",
                kind="link out of the root",
                path=path,
            )

    def _holds(self, real: str) -> bool:
        return real == self._real or real.startswith(os.path.join(self._real, ""))  # noqa: PTH118

    def images(self, folder: Path) -> Iterator[str]:
        """Image files below ``folder``, relative to the root, sorted by path.

        Hidden files and folders are left out; a folder linked from within itself is read once. How
        many other files there are, by suffix, is logged.

        Raises:
            DataError: a link leads out of the root.
        """
        prefix = PurePosixPath(folder.relative_to(self.folder).as_posix())
        others: Counter[str] = Counter()
        yield from self._walk(folder, "" if str(prefix) == "." else f"{prefix}/", set(), others)
        say_passed_over(folder, others)

    def _walk(
        self, folder: Path, prefix: str, seen: set[str], others: Counter[str]
    ) -> Iterator[str]:
        real = os.path.realpath(folder)
        if real in seen:
            return
        seen.add(real)
        names, folders = self._entries(folder, others)
        for name in sorted(names):
            if name in folders:
                yield from self._walk(folder / name, f"{prefix}{name}/", seen, others)
            else:
                yield prefix + name

    def _entries(self, folder: Path, others: Counter[str]) -> tuple[list[str], set[str]]:
        """Visible images and folders in a folder, and which of them are folders."""
        names: list[str] = []
        folders: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            raise DataError(f"{folder} cannot be listed: {error.strerror}", path=folder) from error
        for entry in found:
            is_folder = _is_folder(entry)
            if entry.name.startswith("."):
                continue
            if not (is_folder or is_image(entry.name)):
                others[suffix_of(entry.name)] += 1
                continue
            if entry.is_symlink():
                self.check(entry.path)
            names.append(entry.name)
            if is_folder:
                folders.add(entry.name)
        return names, folders


def is_image(name: str) -> bool:
    """Whether the name of a file ends like an image's."""
    return suffix_of(name) in SUFFIXES


def suffix_of(name: str) -> str:
    """The end of a file's name from its last dot, in small letters; empty where there is none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - no Path each


def say_passed_over(where: str | Path, others: Counter[str]) -> None:
    """Log how many files are no images by their suffixes."""
    if others:
        log.info("%s: %d files passed over: %s", where, others.total(), by_suffix(others))


def by_suffix(found: Counter[str]) -> str:
    """How many files have which suffix, in words."""
    return ", ".join(
        f"{suffix or 'no suffix'} {number}" for suffix, number in sorted(found.items())
    )


def is_file(path: str | Path) -> bool:
    """Whether the path, links followed, is a file; cheaper than ``Path.is_file``."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, sub-folders and links included, sorted by path."""
    root = Root(folder, Limits(allow_links=True))
    return [folder / name for name in root.images(folder)]


def read_list(path: Path, root: Path) -> Iterator[tuple[str, str | None]]:
    """Lines of a file list: an image and, optionally, its mask, relative to the root.

    Both are separated by a tab, or by blanks where there is none: a blank that follows the suffix
    of an image file ends its name, others belong to it. Empty lines and lines that begin with
    ``#`` do not count.

    Args:
        path: of the list.
        root: folder of the data set; absolute names must lie in it.

    Raises:
        DataError: no such file, a line that can be read in several ways, or a name that could lead
            out of the root.
    """
    bases = [f"{base}/" for base in dict.fromkeys((str(root.absolute()), os.path.realpath(root)))]
    try:
        # Editors of Windows write a mark at the beginning, which this encoding takes off.
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                entry = line.strip()
                if not entry or entry.startswith("#"):
                    continue
                if AT_COMMA.search(entry):
                    raise DataError(
                        f"{path}:{number} must separate names by a tab or blanks, not by commas or "
                        f"semicolons, got {entry!r}"
                    )
                names = [_below(name, bases) for name in _names(entry)]
                if len(names) > 2:
                    raise DataError(
                        f"{path}:{number} must name an image and at most one mask, got {entry!r}; "
                        "separate names that hold blanks by a tab"
                    )
                for name in names:
                    _check_name(name, f"{path}:{number}")
                yield names[0], names[1] if len(names) == 2 else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file list {path} cannot be read: {error}") from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself: whoever opens it will be told.
        return False


def _names(entry: str) -> list[str]:
    """The names in a line of a file list."""
    if "\t" in entry:
        return [name.strip() for name in entry.split("\t")]
    found = AFTER_SUFFIX.split(entry)
    # Of names without a known suffix no blank is part.
    return found if is_image(found[-1]) else entry.split()


def _below(name: str, bases: Iterable[str]) -> str:
    """An absolute name relative to the root, as far as it lies there."""
    base = next((base for base in bases if name.startswith(base)), "")
    return name.removeprefix(base)


def _check_name(name: str, where: str) -> None:
    parts = name.split("/")
    if name.startswith("/"):
        raise DataError(
            f"{where} must be a path below the root of the data set, got {name!r}; name a folder "
            "above all of them as the root (data.source_root, data.target_root)"
        )
    if ".." in parts or not name.isprintable() or "\\" in name:
        raise DataError(f"{where} must be a path below the root with forward slashes, got {name!r}")
