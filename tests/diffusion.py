"""A tiny diffusion model and photographs of a place."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripting import script


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model; where the libraries are missing, its tests are left out."""
    for library in ("diffusers", "transformers", "peft"):
        pytest.importorskip(library)
    from sfseg.generation.pipelines import quiet_libraries

    quiet_libraries()
    folder = tmp_path_factory.mktemp("tiny_diffusion")
    script("tiny_diffusion").main([str(folder)])
    return folder


@pytest.fixture(scope="session")
def loaded(tiny: Path) -> Any:
    from sfseg.generation.pipelines import load_pipeline

    return load_pipeline(str(tiny))


@pytest.fixture
def pipeline(loaded: Any) -> Any:
    """The model, for this test alone."""
    return copy.deepcopy(loaded)


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., Path]:
    """Write some pictures of noise into a folder: ``photographs(2, size=(32, 48))``."""

    def write(number: int = 1, *, size: tuple[int, int] = (32, 48), seed: int = 0) -> Path:
        folder = tmp_path / "photographs"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(seed)
        for k in range(number):
            noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{k}.png")
        return folder

    return write
