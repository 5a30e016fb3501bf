"""Runs whose pseudo-labels a tiny SAM refines: those that are stored, and those of each step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEBUG, Cli, command
from test_adaptation import labels_of
from test_train import equal, weights

SHORT = [*DEBUG, "trainer.limit_val_batches=1", "source_model.steps=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source model of one step."""
    folder = tmp_path_factory.mktemp("source")
    assert command("sfseg-train", *SHORT, "trainer.max_steps=1", f"hydra.run.dir={folder}") == 0
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def refined(source: Path, tiny_sam: Path, tmp_path: Path) -> list[str]:
    return [
        *SHORT, f"source_checkpoint={source}", "pseudo_labels.refine=sam",
        f"pseudo_labels.sam.model={tiny_sam}", f"data.cache_dir={tmp_path / 'kept'}",
    ]  # fmt: skip


def embeddings(folder: Path) -> dict[str, bytes]:
    """Files of embeddings by name."""
    found = (folder / "kept" / "embeddings").rglob("*.safetensors")
    return {path.name: path.read_bytes() for path in found}


def test_stored_labels_are_refined_before_training(
    cli: Cli, refined: list[str], tmp_path: Path
) -> None:
    common = [*refined, "method=uniuvpt", "method.scales=[1.0]", "method.correction=none",
              "callbacks=[default]", "trainer.max_steps=1"]  # fmt: skip
    first = cli("sfseg-train", *common, "hydra.run.dir=first")
    assert first.code == 0, first.output
    assert "pseudo-labels: refined by" in first.output
    assert "% of the pixels refined" in first.output
    assert len(embeddings(tmp_path)) == 4, "one a training image"
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = cli("sfseg-train", *common, "hydra.run.dir=again")
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert again.code == 0, again.output
    made = [labels_of(first.folder / name) for name in ("first", "again")]
    for mine, theirs in zip(*made, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any((label == 255).any() for label in made[0])
    saved = torch.load(
        first.folder / "first" / "checkpoints" / "last.ckpt", weights_only=True
    )  # fmt: skip
    assert not any("vision_encoder" in name or "refiner" in name for name in saved["state_dict"])


def resumed(cli: Cli, *common: str) -> Path:
    """Folder of a run ``whole``, and of ``rest``, which goes on where ``half`` has ended."""
    whole = cli("sfseg-train", *common, "trainer.max_steps=4", "hydra.run.dir=whole")
    assert whole.code == 0, whole.output
    half = cli("sfseg-train", *common, "trainer.max_steps=2", "hydra.run.dir=half")
    assert half.code == 0, half.output
    rest = cli("sfseg-train", *common, "trainer.max_steps=4", "hydra.run.dir=rest",
               "ckpt_path=half/checkpoints/last.ckpt")  # fmt: skip
    assert rest.code == 0, rest.output
    return whole.folder


def test_a_resumed_mean_teacher_ends_as_one_that_was_not_interrupted(
    cli: Cli, refined: list[str], tmp_path: Path
) -> None:
    folder = resumed(cli, *refined, "method=mean_teacher", "method.schedule.steps=4")
    assert equal(weights(folder / "whole"), weights(folder / "rest"))
    header = (folder / "whole" / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"train/{name}" for name in ("refined_pixels", "kept_components")} <= set(header)
    assert not embeddings(tmp_path), "distorted crops never come again"


@pytest.mark.slow
def test_a_resumed_uplr_ends_as_one_that_was_not_interrupted(
    cli: Cli, refined: list[str], tmp_path: Path
) -> None:
    folder = resumed(
        cli, *refined, "method=uplr", "method.steps=4", "method.schedule.steps=4",
        "method.stages=1", "method.rounds=3", "data/translation=none",
    )  # fmt: skip
    assert equal(weights(folder / "whole"), weights(folder / "rest"))
    stores = [labels_of(folder / name) for name in ("whole", "rest")]
    for mine, theirs in zip(*stores, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(embeddings(tmp_path)) == 4
