"""What the pixels and labels of a set follow from, as one digest, and its images' one by one."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfseg.data.files import Files
from sfseg.data.folder import Scenes
from sfseg.errors import DataError

READING = 2
"""Goes up when files are read into other pixels or ids than before."""
PART = 4096
"""Bytes that are read of a file's beginning, middle and end."""


def fingerprint(scenes: Scenes) -> str | None:
    """SHA-256 of all that images and labels depend on, but for what only reading them would show.

    That is the classes, how stored ids are read, and the names below the root, sizes and times of
    change of all files; not where the root is. None for a set that is not stored in files.
    """
    if not isinstance(scenes, Files):
        return None
    said = f"{READING} {scenes.value_range} {scenes.labels.classes} {scenes.meaning}\n"
    digest = hashlib.sha256(said.encode())
    for root, paths in scenes.stored:
        for path in paths:
            digest.update(_stamp(path, root))
        digest.update(b"\n")
    return digest.hexdigest()


def _stamp(path: Path, root: Path) -> bytes:
    """A file's name, size and time of change."""
    try:
        status = path.stat()
        when = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        when = "missing"
    return os.fsencode(path.relative_to(root)) + f"\0{when}\n".encode()


def image_digests(scenes: Scenes, left_out: Collection[int] = ()) -> NDArray[np.uint64] | None:
    """A number for the content of each image file, 0 for those that are left out or not there.

    It is of the file's length and of three parts of it, so that a large set is looked at in
    seconds. Compressed images that differ anywhere hardly agree in all of these; times of change,
    which a copy has not, are none of it. None for a set that is not stored in files.
    """
    if not isinstance(scenes, Files):
        return None
    found = np.zeros(len(scenes), np.uint64)
    for k in set(range(len(scenes))) - set(left_out):
        try:
            found[k] = _content(scenes.image_file(k))
        except (OSError, DataError):
            continue
    return found


def _content(path: Path) -> int:
    with path.open("rb", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{length}".encode())
        for start in (0, (length - PART) // 2, length - PART):
            file.seek(max(0, start))
            digest.update(file.read(PART))
    return int.from_bytes(digest.digest()[:8], "little") or 1
