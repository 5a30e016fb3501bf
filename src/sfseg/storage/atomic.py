"""Files that appear whole or not at all, whoever else writes or dies meanwhile."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sfseg.errors import OutputError

NAMELESS = ("", "..")
"""How the name of a folder ends beside which none can be written: ``.``, ``..`` and ``/``."""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, flush it to the disk, then give it its name.

    Several processes, also on other machines, may write the same file; one of them wins.

    Args:
        path: its folder is made if need be.
        write: gets the open file.

    Raises:
        OSError: the folder or the disk takes nothing; what was at ``path`` is still there.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_folder(folder: Path, write: Callable[[Path], None], *, replace: bool = False) -> None:
    """Write a folder beside its place, flush it to the disk, then give it its name.

    Args:
        folder: its place.
        write: fills an empty folder.
        replace: a folder that is there makes room once the new one is complete.

    Raises:
        OSError: the disk takes nothing, or there is a folder with files that is not to be replaced.
    """
    partial, old = (
        folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial") for _ in range(2)
    )
    try:
        partial.mkdir(parents=True)
        write(partial)
        for path in partial.rglob("*"):
            sync(path)
        if replace and folder.is_dir():
            folder.replace(old)
        partial.replace(folder)
        sync(folder.parent)
    finally:
        if old.is_dir() and not folder.exists():
            old.replace(folder)
        for path in (partial, old):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def output_to(place: Path) -> Iterator[None]:
    """Errors of writing what a command is asked for.

    Args:
        place: of the file or folder.

    Raises:
        OutputError: the folder or the disk takes nothing.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{place} cannot be written: {error}; what was there is still there. Make room, or "
            "choose another folder"
        ) from error


def file_in_the_way(folder: Path) -> Path | None:
    """A file that lies where a folder, or one above it, would have to be."""
    return next((path for path in (folder, *folder.parents) if path.is_file()), None)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers have left at any depth; for the one process that writes there."""
    for path in sorted(folder.rglob(".*.partial")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
