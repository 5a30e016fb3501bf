"""Which checkpoint files are whole: known by their content, not by name.

A folder keeps the last checkpoint and the one before it. ``manifest.json`` lists what they contain
by checksum, and is written before the files get their names, so that a process that is killed at
any moment leaves at least one that it describes.
"""

import hashlib
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from sfseg.errors import ConfigError
from sfseg.storage.atomic import write_whole

log = logging.getLogger(__name__)

KEY = "sfseg"
"""Under which a checkpoint holds what it says about itself, see ``sfseg.callbacks.provenance``."""
LAST, PREVIOUS, MANIFEST = "last.ckpt", "previous.ckpt", "manifest.json"
REMEMBERED = 3
"""Checksums in a manifest: of the last file, the one before it, and one being written."""

Manifest = dict[str, int]
"""SHA-256 of a checkpoint's content to the optimiser steps it has done, the newest last."""


def load_plain(path: Any, map_location: Any = None) -> dict[str, Any]:
    """Read tensors and plain containers; nothing else is ever executed or built."""
    content: dict[str, Any] = torch.load(
        path, map_location=map_location or "cpu", weights_only=True
    )
    return content


def newest(folder: Path) -> Path | None:
    """The checkpoint of a run's folder to go on from; None where there is none yet.

    That is the one of most steps which is whole, whether or not the manifest knows it; of equals
    one that it knows, and of these ``last.ckpt``. What is passed over is named in a warning.

    Raises:
        ConfigError: there are some, and all are damaged.
    """
    found: list[tuple[int, bool, bool, Path]] = []
    damaged: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            steps, is_listed = _whole(path)
            found.append((steps, is_listed, path.name == LAST, path))
        except ConfigError as error:
            damaged.append(str(error))
    if damaged and not found:
        raise ConfigError(
            f"no checkpoint in {folder} is whole, so this run cannot go on: {'; '.join(damaged)}. "
            "Restore one, or remove the run's folder to start anew"
        )
    if not found:
        return None
    steps, is_listed, _, chosen = max(found)
    reasons = list(damaged)
    if not is_listed and (folder / MANIFEST).exists():
        reasons.append(f"{chosen.name} is not in {folder / MANIFEST}, but whole by its checksums")
    for reason in reasons:
        log.warning("%s; going on from %s, of step %d", reason, chosen, steps)
    return chosen


def require_whole(path: Path) -> int:
    """Compare a checkpoint with its folder's manifest, or with its own checksums.

    The latter count where there is no manifest, or one that does not know the file: that may be
    older than the file, or of another folder.

    Returns:
        The optimiser steps it has done.

    Raises:
        ConfigError: it is damaged, or the manifest is.
    """
    return _whole(path)[0]


def _whole(path: Path) -> tuple[int, bool]:
    """:func:`require_whole`, and whether a manifest knows the checkpoint."""
    manifest = read_manifest(path.parent)
    if manifest is not None and (found := digest(path)) in manifest:
        return manifest[found], True
    try:
        return _steps(path), False
    except ConfigError as error:
        if manifest is None:
            raise
        raise ConfigError(
            f"{path} is not as it was written: its checksum {found[:12]} is not in "
            f"{path.parent / MANIFEST}, and {error}"
        ) from error


def _steps(path: Path) -> int:
    """The optimiser steps that a checkpoint has done, once all of it has been read.

    Raises:
        ConfigError: it does not agree with its own checksums, or cannot be loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        content = {} if wrong is not None else load_plain(path)
        steps = int(content.get("global_step", 0))
    # Of a damaged archive or pickle, any of its readers' errors.
    except Exception as error:
        raise ConfigError(f"{path} is truncated or damaged ({type(error).__name__})") from error
    if wrong is not None:
        raise ConfigError(f"{path} is damaged: {wrong} in it has another checksum")
    return steps


def verify(path: Path) -> None:
    """:func:`require_whole` for a file that a manifest speaks of; others pass.

    Raises:
        ConfigError: it is damaged, or the manifest is.
    """
    if path.name in {LAST, PREVIOUS} and read_manifest(path.parent) is not None:
        require_whole(path)


def read_manifest(folder: Path) -> Manifest | None:
    """What a folder says of its checkpoints; None where it says nothing.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = {str(sha): int(steps) for sha, steps in content["checkpoints"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}), so no checkpoint beside it can be told "
            "from a broken one; remove it to have them checked by their own checksums"
        ) from error
    return entries


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def continued_manifest(folder: Path) -> Manifest:
    """What a writer goes on with, for whom a damaged one is none: it knows what it writes."""
    try:
        return read_manifest(folder) or {}
    except ConfigError as error:
        log.warning("%s; it is written anew", error)
        return {}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Keep the newest entries, as many as :data:`REMEMBERED` says."""
    kept = dict(list(manifest.items())[-REMEMBERED:])
    text = json.dumps({"checkpoints": kept}, indent=2)
    write_whole(folder / MANIFEST, lambda file: file.write(text.encode()))
