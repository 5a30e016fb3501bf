"""Tiny segment-anything models of random weights, saved as real ones are."""

from pathlib import Path

import pytest
from scripting import script


def written(factory: pytest.TempPathFactory, kind: str) -> Path:
    pytest.importorskip("transformers")
    folder = factory.mktemp(kind)
    script("tiny_sam").main([str(folder), "--kind", kind])
    return folder


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SAM; where transformers is missing, its tests are left out."""
    return written(tmp_path_factory, "sam")


@pytest.fixture(scope="session")
def tiny_sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise of a SAM 2."""
    return written(tmp_path_factory, "sam2")
