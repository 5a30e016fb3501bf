"""Every experiment file: its settings fit together, and one real step of a small stand-in runs."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sfseg.config import CONF, build
from sfseg.errors import ConfigError
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
    cfg.backbone.pretrained, cfg.backbone.weights = False, None
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
    command = f"# sfseg-train experiment={name} data.root=<folder>"
    assert any(line.startswith(command) for line in header)
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


def test_settings_of_recipes() -> None:
    """What the releases do and the defaults do not."""
    for name, path, value in (
        ("gta5_resnet101_deeplabv2", "backbone.network.align_corners", True),
        ("gta5_resnet101_deeplabv2", "data.source_view.crop", [720, 1280]),
        ("gta5_resnet101_deeplabv2", "data.source_view.flip", 0.0),
        ("gta5_resnet101_deeplabv2", "method.aux_weight", 0.1),
        ("synthia_resnet101_deeplabv2", "data.source_view.crop", [760, 1280]),
        ("synthia_resnet101_deeplabv2", "data.classes", "synthia"),
        ("synthia_swin_b", "data.classes", "cityscapes"),
        ("gta5_vgg16_fcn8s", "data.source_view.crop", [720, 1280]),
        ("gta5_swin_b", "method.normalize", "all"),
        ("gta5_resnet50_deeplabv3", "method.optimizer.nesterov", True),
        ("gta5_resnet50_deeplabv3", "data.batch_size", 8),
        ("cross_city_resnet101_deeplabv2", "data.eval_label_size", [512, 1024]),
        ("cross_city_resnet50_deeplabv3", "data.eval_label_size", None),
    ):
        found = OmegaConf.select(composed(f"source_only/{name}"), path)
        assert found == value, (name, path, found)


def test_weight_decay_of_norms_is_dropped_for_transformers_only() -> None:
    for name, dropped in (("gta5_mit_b5_segformer", True), ("gta5_resnet101_daformer", False)):
        rules = composed(f"source_only/{name}").method.parameter_rules
        assert any(rule.match == "<norm>" for rule in rules) == dropped


@pytest.mark.parametrize("name", [name for name in NAMES if "mit_b5" in name])
def test_weights_that_are_not_downloaded_must_be_given(name: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.weights=<mit_b5\.pth> takes the published"):
        build(composed(name).backbone.network, num_classes=19)
    assert "backbone.weights=<mit_b5.pth>" in (FOLDER / f"{name}.yaml").read_text()


def test_sizes_of_sfda_are_its_own() -> None:
    data = composed("source_only/gta5_resnet50_deeplabv3").data
    assert data.source_view.crop == data.source_view.resize == data.eval_size == [256, 512]
