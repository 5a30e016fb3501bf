"""What a trained network takes from pixels comes from what built it: checkpoints do not hold it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEBUG, Cli
from omegaconf import OmegaConf

from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD
from sfseg.runs.checkpoints import Restored, restore

MODEL = ["backbone=resnet50", "backbone.network.name=test_resnet", "backbone.pretrained=false"]
SMALL = [*DEBUG, *MODEL, "backbone/head=segformer", "hydra.run.dir=run"]


def test_of_today_and_of_before_each_backbone_had_its_own(cli: Cli, tmp_path: Path) -> None:
    assert cli("sfseg-train", *SMALL).code == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    network = restore(last).network
    assert network.mean.flatten().tolist() == network.std.flatten().tolist() == [0.5] * 3

    content = torch.load(last, weights_only=True)
    settings = content["sfseg"]["config"]["backbone"]["network"]
    settings["mean"] = [0.25, 0.5, 0.75]
    assert restored(content, last).network.mean.flatten().tolist() == [0.25, 0.5, 0.75]

    del settings["mean"], settings["std"]
    older = restored(content, last)
    assert older.network.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert older.network.std.flatten().tolist() == pytest.approx(IMAGENET_STD)
    assert OmegaConf.is_list(older.config.backbone.network.mean)


def restored(content: dict[str, Any], path: Path) -> Restored:
    torch.save(content, path)
    (path.parent / "manifest.json").unlink(missing_ok=True)
    return restore(path)
