"""The folder of a store: made with all the room it will need, or copied."""

import shutil
import stat
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from sfseg.errors import ConfigError, DataError
from sfseg.pseudo.files import allocate, disk_errors
from sfseg.pseudo.identity import CONTENT, NAMES, RECORD, SIZES, Identity, read_record
from sfseg.pseudo.reader import PLANES, ROW, ROWS
from sfseg.storage.atomic import sync
from sfseg.storage.lock import WriterLock

LOCK, UNDO = "lock", "undo"
OWN = {LOCK, UNDO, RECORD, NAMES, SIZES, CONTENT, ROWS, *PLANES}


def make_folder(folder: Path, identity: Identity, *, with_confidence: bool) -> None:
    """Files of a store without labels; the record that makes them one comes last.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: the disk has not enough room; nothing of it remains taken.
    """
    pixels = int(np.prod(identity.sizes, axis=1, dtype=np.int64).sum())
    lengths = dict.fromkeys(PLANES[: 1 + with_confidence], pixels)
    lengths[ROWS] = len(identity.names) * ROW.itemsize
    room = f"{sum(lengths.values()) / 2**20:,.1f} MiB for pseudo-labels cannot be reserved"
    with disk_errors(folder, room):
        _require_unused(folder)
        (folder / UNDO).mkdir(parents=True, exist_ok=True)
        lock = WriterLock(folder / LOCK)
        try:
            _require_unused(folder)  # another process may have been faster
            with ExitStack() as failed:
                for name, length in lengths.items():
                    failed.callback((folder / name).unlink, missing_ok=True)
                    allocate(folder / name, length)
                identity.write(folder, with_confidence=with_confidence)
                failed.pop_all()
        finally:
            lock.release()


def copy_store(source: Path, target: Path) -> None:
    """Copy a store with all states it can return to; the copy appears when it is complete.

    For a run that starts from another run's labels or continues it in a folder of its own.

    Raises:
        ConfigError: there is no store, a process writes it, or the target exists.
        DataError: it holds links, the disk has not enough room, or files cannot be read.
    """
    read_record(source)
    _require_files(source)
    if target.exists():
        raise ConfigError(f"{target} exists already and stays as it is; choose another folder")
    partial = target.with_name(f".{target.name}.partial")
    with disk_errors(target, f"the pseudo-labels in {source} cannot be copied"):
        lock = WriterLock(source / LOCK)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            ignored = shutil.ignore_patterns(LOCK, ".*")
            shutil.copytree(source, partial, symlinks=True, ignore=ignored)
            _require_files(partial)  # a link may have come meanwhile; it was not followed
            for path in partial.rglob("*"):
                sync(path)
            sync(partial)
            partial.rename(target)
            sync(target.parent)
        except (OSError, DataError):
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            lock.release()


def _require_files(folder: Path) -> None:
    """Accept nothing but files and folders of the store's own: a link may lead anywhere."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(
                f"the pseudo-labels in {folder} hold {path.relative_to(folder)}, which is a link "
                "or no regular file, and are not copied; put the file itself there, or remove it",
                kind="link out of the root",
                path=path,
            )


def _require_unused(folder: Path) -> None:
    """Accept only a folder without a store, where at most the making of one was interrupted."""
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir() if not path.name.endswith(".partial")}
    if RECORD in found:
        raise ConfigError(
            f"{folder} holds pseudo-labels already, which stay as they are; open them, or choose "
            "another folder"
        )
    if foreign := sorted(found - OWN):
        raise ConfigError(
            f"{folder} holds other files, such as {foreign[0]}; choose an empty or new folder for "
            "pseudo-labels"
        )
