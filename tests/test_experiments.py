"""Every experiment file: its settings fit together, and one real step of a small stand-in runs."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sfseg.config import CONF, build
from sfseg.methods.base import Method
from sfseg.types import IGNORE

FOLDER = CONF / "experiment"
FILES = sorted(p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("_"))
NAMES = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FILES]


def composed(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[f"experiment={name}"])


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_a_step(name: str) -> None:
    cfg = composed(name)
    OmegaConf.to_container(cfg.data, resolve=True, throw_on_missing=True)
    labels = build(cfg.data.module.labels)
    cfg.backbone.pretrained = False
    with torch.device("meta"):
        network = build(cfg.backbone.network, num_classes=labels.num_classes)
        method: Method = build(cfg.method)(
            network=network,
            labels=labels,
            eval_domains=["target"],
            inference=build(cfg.evaluation),
        )
        assert cfg.optimized_metric in method.metric_names()
        optimizer = method.configure_optimizers()["optimizer"]
        image = torch.zeros(2, 3, *cfg.data.source_view.crop, dtype=torch.uint8)
        label = torch.full((2, *image.shape[-2:]), IGNORE, dtype=torch.uint8)
        loss = method.training_step({"source": {"image": image, "label": label}}, 0)["loss"]
        loss.backward()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert trained and all(p.grad is not None for p in trained)
    assert 0 < cfg.eval_every <= cfg.trainer.max_steps


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_its_header_says_how_and_what_to_expect(path: Path) -> None:
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    assert f"# sfseg-train experiment={name} data.root=<folder>" in header
    assert re.search(r"Expected.*\d\d\.\d|No number", " ".join(header))


def test_recipes_say_what_the_papers_say() -> None:
    expected = {
        "source_only/gta5_swin_b": ("AdamW", 6e-6, 400_000),
        "source_only/synthia_mit_b5": ("AdamW", 2e-6, 400_000),
        "source_only/gta5_resnet101_deeplabv2": ("SGD", 2.5e-4, 250_000),
        "source_only/gta5_resnet50_deeplabv3": ("SGD", 2.5e-4, 62_420),
    }
    for name, (optimizer, rate, horizon) in expected.items():
        method = composed(name).method
        assert method.optimizer._target_ == f"torch.optim.{optimizer}"
        assert (method.lr, method.schedule.steps) == (rate, horizon)


def test_sizes_of_sfda_are_its_own() -> None:
    data = composed("source_only/gta5_resnet50_deeplabv3").data
    assert data.source_view.crop == data.source_view.resize == data.eval_size == [256, 512]
