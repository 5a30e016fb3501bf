"""GTA5's official split, a file of MATLAB's."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from sfseg.errors import DataError

KEYS = {"train": "trainIds", "val": "valIds", "test": "testIds"}


def read_split(path: Path, split: str) -> NDArray[np.int64]:
    """Numbers of a split's frames, from 1.

    Args:
        path: ``split.mat`` of the data set's ``read_mapping.zip``.
        split: train, val or test.

    Raises:
        DataError: no such file, or none of this form.
        ValueError: another split.
    """
    if split not in KEYS:
        raise ValueError(f"split must be one of {['all', *KEYS]}, got {split!r}")
    if not path.is_file():
        raise DataError(
            f"the official split of GTA5 needs {path}, which does not exist; copy split.mat from "
            "the data set's read_mapping.zip there, or take all frames with split=all"
        )
    try:
        numbers = loadmat(path, variable_names=[KEYS[split]])[KEYS[split]]
    # A damaged file fails in any part of the reader, each with an exception of its own.
    except Exception as error:
        raise DataError(
            f"{path} is no split.mat of GTA5 ({type(error).__name__}: {error}); copy it again"
        ) from error
    numbers = np.asarray(numbers).ravel()
    if not np.issubdtype(numbers.dtype, np.number) or not len(numbers):
        raise DataError(f"{KEYS[split]} of {path} must hold frame numbers, got {numbers.dtype}")
    return numbers.astype(np.int64)
