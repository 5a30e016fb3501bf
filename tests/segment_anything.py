"""Tiny segment-anything models of random weights, saved as real ones are."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "tiny_sam.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_sam", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(factory: pytest.TempPathFactory, kind: str) -> Path:
    pytest.importorskip("transformers")
    folder = factory.mktemp(kind)
    script().main([str(folder), "--kind", kind])
    return folder


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SAM; where transformers is missing, its tests are left out."""
    return written(tmp_path_factory, "sam")


@pytest.fixture(scope="session")
def tiny_sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise of a SAM 2."""
    return written(tmp_path_factory, "sam2")
