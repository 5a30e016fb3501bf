"""How many pixels of each class every image of a set has: counted once, then read from disk."""

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfseg.data.check import count_classes, on_all_processors
from sfseg.data.fingerprint import fingerprint
from sfseg.data.folder import Scenes
from sfseg.storage.atomic import write_whole

log = logging.getLogger(__name__)

FORMAT = "1"


def class_counts(
    scenes: Scenes, folder: str | Path | None, left_out: Collection[int] = ()
) -> NDArray[np.int64]:
    """Labelled pixels of each class in each image, (N, K).

    Args:
        scenes: a set with labels; one that is not stored in files is counted each time.
        folder: where counts are kept, ``data.cache_dir``; None keeps none.
        left_out: images that cannot be used; they have no pixels.

    Raises:
        DataError: a label cannot be read.
        ValueError: the set has no labels.
    """
    if not scenes.has_labels:
        raise ValueError("class_counts needs a set with labels, got one without")
    classes = scenes.labels.num_classes
    path = None if folder is None else counts_file(scenes, folder, left_out)
    counts = None if path is None else _load(path, (len(scenes), classes))
    if counts is None:
        log.info("class counts: reading %d labels%s", len(scenes), "" if path is None else ", once")
        usable = [index for index in range(len(scenes)) if index not in left_out]
        found = on_all_processors(lambda index: count_classes(scenes.label(index), classes), usable)
        counts = np.zeros((len(scenes), classes), np.int64)
        counts[usable] = np.array(list(found), np.int64).reshape(-1, classes)
        if path is not None:
            store(counts, path)
    return counts


def counts_file(scenes: Scenes, folder: str | Path, left_out: Collection[int] = ()) -> Path | None:
    """Where the counts of a set are kept: a name that changes with anything they depend on.

    None for a set that is not stored in files.
    """
    content = fingerprint(scenes)
    if content is None or not scenes.has_labels:
        return None
    without = f" without {sorted(left_out)}" if left_out else ""
    name = hashlib.sha256(f"{FORMAT} {content}{without}".encode()).hexdigest()
    return Path(folder).expanduser() / "statistics" / f"{name}.npz"


def store(counts: NDArray[np.int64], path: Path) -> bool:
    """Keep counts, whole or not at all; a disk that takes none costs a warning only."""
    try:
        write_whole(path, lambda file: np.savez_compressed(file, counts=counts))
    except OSError as error:
        log.warning("class counts cannot be kept, they are counted each time: %s", error)
        return False
    return True


def _load(path: Path, shape: tuple[int, int]) -> NDArray[np.int64] | None:
    """Stored counts; None when there are none, or none that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            counts = np.asarray(stored["counts"])
    # A damaged archive fails in any part of the reader, each with an exception of its own.
    except Exception:
        return None
    return counts if counts.shape == shape and counts.dtype == np.int64 else None
