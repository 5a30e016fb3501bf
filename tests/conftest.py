"""Run the commands in this process: the same code as the console scripts, without their start."""

import gc
import os
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import composing
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.fabric.utilities import registry
from shallow import make_shallow
from zygote import Parent, main_of

from sfseg.data.toyscapes.scenes import Toyscapes

pytest_plugins = ["diffusion", "segment_anything"]

# Small tensors on several threads wait for each other more than they compute.
THREADS = os.environ.get("SFSEG_TEST_THREADS", "1")
torch.set_num_threads(int(THREADS))
os.environ["OMP_NUM_THREADS"] = THREADS

composing.remember()
make_shallow()
# Every trainer looks through all installed packages for callbacks: most of what it costs.
registry.entry_points = cache(registry.entry_points)

SMALL = [
    "data.size=[64,128]",
    "data.eval_batch_size=2",
    "data.check_samples=2",
    "data.batch_size=2",
    "data.adaptation.batch_size=2",
    *(f"data.scenes.{s}_train.length=4" for s in ("source", "target")),
    *(f"data.scenes.{s}_eval.length=2" for s in ("source", "target")),
]
"""Toyscapes, small enough for a test."""
WITH_PANELS = [
    *SMALL, "trainer=debug", "trainer.precision=32-true", "trainer.detect_anomaly=false",
    "report=false",
]  # fmt: skip
DEBUG = [*WITH_PANELS, "~callbacks.panels"]
"""A run of three steps; pictures of predictions take a quarter of its time."""


@dataclass
class Done:
    """How a command ended."""

    code: int
    output: str
    folder: Path

    @property
    def run(self) -> Path:
        """The only run folder below the working folder."""
        (record,) = self.folder.rglob("run.json")
        return record.parent


Cli = Callable[..., Done]
LONGEST = (
    "test_ranks", "test_preemption", "test_train", "test_experiments", "test_kills", "test_configs",
    "test_adaptation", "test_contract", "test_crashes", "test_hostile", "test_faults",
    "test_source_model", "test_build", "test_wheel", "test_distributed",
)  # fmt: skip
"""Files that take longest; begun last, one of them would keep one process waiting for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish() -> None:
    """What is imported and collected stays: the collector of garbage need not look again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def parent() -> Iterator[Parent]:
    """Forks processes of runs; of all that these import only one is started for each worker."""
    with Parent() as started:
        yield started


_drawn: dict[Hashable, np.ndarray] = {}
_draw = Toyscapes._scene


def drawn_once(scenes: Toyscapes, index: int) -> np.ndarray:
    """A scene as some run of this process has drawn it; all but a few ask for the same dozen."""
    style = repr(scenes.style)
    key = (scenes.domain, scenes.split, scenes.seed, style, scenes._size, scenes._checked(index))
    if key not in _drawn:
        _drawn[key] = _draw(scenes, index)
    return _drawn[key]


def command(name: str, *arguments: str) -> int:
    """Call a command as its console script does; its exit code."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Toyscapes, "_scene", drawn_once)
        patch.setattr(sys, "argv", [name, *arguments])
        try:
            main_of(name)()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
    return 0


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Call a command in ``tmp_path``: ``cli("sfseg-train", "seed=1")``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SFSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SFSEG_LOG_DIR", raising=False)

    def call(name: str, *arguments: str) -> Done:
        code = command(name, *arguments)
        captured = capfd.readouterr()
        return Done(code, captured.out + captured.err, tmp_path)

    return call


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on which tests its process ran before."""
    torch.manual_seed(0)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations compute in single precision: let them believe that this is double.

    Then two ways to the same value differ by far less than any mistake, in whatever order a
    processor adds.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
