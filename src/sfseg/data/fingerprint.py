"""What the pixels and labels of a set follow from, as one digest."""

import hashlib
import os
from pathlib import Path

from sfseg.data.files import Files
from sfseg.data.folder import Scenes


def fingerprint(scenes: Scenes) -> str | None:
    """SHA-256 of all that images and labels depend on, but for what only reading them would show.

    That is the classes, how stored ids are read, and the names below the root, sizes and times of
    change of all files; not where the root is. None for a set that is not stored in files.
    """
    if not isinstance(scenes, Files):
        return None
    digest = hashlib.sha256(
        f"{scenes.labels.classes} {scenes.labels.palette} {scenes.rgb} {scenes.fit_labels} "
        f"{scenes.table.tobytes().hex()}\n".encode()
    )
    for paths in (scenes.images, scenes.masks or ()):
        for path in paths:
            digest.update(_stamp(path, scenes.root))
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
