from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sfseg.networks.build import build_segmenter
from sfseg.networks.heads import DAFormerHead
from sfseg.networks.segmenter import Segmenter

CONF = Path(__file__).parents[2] / "conf"
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("[!_]*.yaml"))
RUN = {"tiny", "swin_t", "resnet50", "convnext_tiny"}  # the larger ones are only shaped
HEAD = partial(DAFormerHead, channels=16, dilations=(1, 2))


def configured(backbone: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=[f"+backbone={backbone}", *overrides])


def built(backbone: str, *overrides: str) -> Segmenter:
    cfg = configured(backbone, "backbone.pretrained=false", *overrides)
    segmenter: Segmenter = instantiate(cfg.backbone.network, num_classes=19)
    return segmenter


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_odd_sizes(backbone: str) -> None:
    with torch.device("cpu" if backbone in RUN else "meta"), torch.inference_mode():
        segmenter = built(backbone, "backbone.head.channels=32").eval()
        logits = segmenter(torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8))
    assert logits.shape == (1, 19, 33, 47)
    assert logits.is_meta or logits.isfinite().all()
    assert segmenter.num_classes == 19


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_file_is_complete(backbone: str) -> None:
    settings = OmegaConf.to_container(
        configured(backbone).backbone, resolve=True, throw_on_missing=True
    )
    assert isinstance(settings, dict)
    assert settings["lr"] > 0
    assert settings["pretrained"] is (backbone != "tiny")


def test_swin_b_has_the_parameters_of_uni_uvpts_table() -> None:
    with torch.device("meta"):
        segmenter = built("swin_b")
    assert sum(p.numel() for p in segmenter.parameters()) == 90_686_667
    assert sum(p.numel() for p in segmenter.head.parameters()) == 3_941_651


def test_channels_last_reaches_the_weights() -> None:
    segmenter = build_segmenter(name="tiny", head=HEAD, num_classes=5, channels_last=True)
    weight = segmenter.get_parameter("head.bottleneck.0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_compiling_changes_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(
        Segmenter, "compile", lambda self, dynamic: compiled.append((self, dynamic))
    )
    segmenter = build_segmenter(name="tiny", head=HEAD, num_classes=5, compile=True)
    assert compiled == [(segmenter, False)]
    plain = build_segmenter(name="tiny", head=HEAD, num_classes=5)
    assert list(segmenter.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("asked", [{"pretrained": True}, {"weights": "tiny.pth"}])
def test_tiny_has_no_weights_to_load(asked: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pretrained must be false .* tiny trains from scratch"):
        build_segmenter(name="tiny", head=HEAD, num_classes=5, **asked)
