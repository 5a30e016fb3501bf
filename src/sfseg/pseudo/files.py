"""Files that appear whole or not at all, and writes that report a full disk as an error."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sfseg.errors import DataError
from sfseg.storage.atomic import sync


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that other processes, and this one after a crash, see complete or not.

    Only the store's one writer calls it: what a crash leaves has the name that the next write uses,
    so that nothing piles up.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def allocate(path: Path, size: int) -> None:
    """A file of zeros whose room on the disk is taken, not only promised.

    A file with holes could be mapped and filled until the disk is full; then the process dies of
    a signal instead of seeing an error.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        os.fsync(file.fileno())


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """All of the content; the system may take less of it at a time."""
    rest = memoryview(content).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


@contextmanager
def disk_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what the system refuses into an error that says what is lost by it.

    Raises:
        DataError: the disk is full, or the file cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {what}: {error}", kind="disk", path=path) from error
