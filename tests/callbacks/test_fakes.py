"""Pictures of what a generator makes."""

from pathlib import Path

import cv2
import pytest
import torch
from conftest import DEBUG, Cli

from sfseg.callbacks.fakes import Fakes, draw
from sfseg.labels import CITYSCAPES


def test_a_run_draws_its_fakes(cli: Cli) -> None:
    done = cli(
        "sfseg-train", "method=sfda", *DEBUG, "source_model.steps=1", "method.latent=4",
        "callbacks.fakes.images=2",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "the backbone has no batch normalisation" in done.output
    (picture,) = done.run.glob("fakes/step_*.png")
    assert cv2.imread(str(picture)) is not None


def test_rows_are_fake_and_both_predictions() -> None:
    fake = torch.zeros(2, 3, 16, 32)
    road, sky = torch.zeros(2, 16, 32, dtype=torch.int64), torch.full((2, 16, 32), 10)
    drawn = draw(fake, road, sky, CITYSCAPES)
    colours = {tuple(c) for c in drawn.reshape(-1, 3).tolist()}
    assert {CITYSCAPES.palette[0], CITYSCAPES.palette[10], (0, 0, 0)} <= colours


def test_bad_use_is_named(cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        Fakes(str(tmp_path), images=0)
    done = cli("sfseg-train", *DEBUG, "callbacks=[default,fakes]")
    assert done.code == 2 and "callbacks.fakes needs a method that makes some" in done.output
