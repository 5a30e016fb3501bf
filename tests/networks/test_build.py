from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from timm.models import vgg
from torch import nn

from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.segmenter import Segmenter

CONF = Path(__file__).parents[2] / "conf"
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("[!_]*.yaml"))
# A smaller one, or its two halves elsewhere, run the same code.
SLOW = {"convnext_base", "swin_b", "swin_b_upernet", "swin_s", "resnet101", "resnet101_deeplabv2"}
SLOW |= {"resnet101c_deeplabv2", "resnet101_deeplabv2_multi"}
SLOW |= {name for name in BACKBONES if name.startswith("mit_") and name != "mit_b0"}
TRAINED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BACKBONES
]
HEAD = partial(DAFormerHead, channels=16, dilations=(1, 2))


def configured(backbone: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=[f"+backbone={backbone}", *overrides])


def built(backbone: str, *overrides: str) -> Segmenter:
    cfg = configured(backbone, "backbone.pretrained=false", *overrides)
    segmenter: Segmenter = instantiate(cfg.backbone.network, num_classes=19)
    return segmenter


@pytest.mark.parametrize("backbone", TRAINED)
def test_every_backbone_takes_a_step_at_an_odd_size(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    # The wide layers of VGG's classifier hold nine tenths of its weights; the pyramid drops them.
    monkeypatch.setattr(vgg, "ConvMlp", lambda *_, **__: nn.Identity())
    segmenter = built(backbone, *["backbone.head.channels=64"] * (backbone == "vgg16_fcn8s"))
    trainable = {name: p for name, p in segmenter.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trainable.items() if "classifier" in name}
    optimizer = torch.optim.SGD(trainable.values(), lr=1e-3)
    image = torch.randint(0, 256, (2, 3, 33, 65), dtype=torch.uint8)
    label = torch.randint(0, 19, (2, 33, 65))
    levels = segmenter.forward_levels(image) if segmenter.aux_head else [segmenter(image)]
    sum(F.cross_entropy(logits, label) for logits in levels).backward()
    assert [name for name, p in trainable.items() if p.grad is None] == []
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in trainable.values())
    assert before
    assert all(not torch.equal(trainable[name], value) for name, value in before.items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_file_is_complete(backbone: str) -> None:
    settings = OmegaConf.to_container(
        configured(backbone).backbone, resolve=True, throw_on_missing=True
    )
    assert isinstance(settings, dict)
    assert settings["lr"] > 0
    assert settings["pretrained"] is not backbone.startswith(("tiny", "mit_"))


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


@pytest.mark.parametrize("name", ["tiny", "mit_b0"])
def test_transformers_of_ours_cannot_dilate(name: str) -> None:
    with pytest.raises(ValueError, match=f"output_stride must be 32 for {name}, got 8; .* resnet"):
        build_segmenter(name=name, head=HEAD, num_classes=5, output_stride=8)


def test_adaptsegnets_network_is_as_their_code_runs_it() -> None:
    with torch.device("meta"):
        single, multi = built("resnet101_deeplabv2"), built("resnet101_deeplabv2_multi")
    assert single.backbone.strides == multi.backbone.strides == (4, 8, 8, 8)
    assert single.aux_head is None
    for head, width in [(single.head, 2048), (multi.head, 2048), (multi.aux_head, 1024)]:
        assert isinstance(head, DeepLabV2Head)
        assert [conv.dilation for conv in head.classifiers] == [(6, 6), (12, 12)]
        assert {conv.in_channels for conv in head.classifiers} == {width}
    frozen = [name for name, p in multi.named_parameters() if not p.requires_grad]
    norms = [m for m in multi.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(frozen) == 2 * len(norms)


def test_a_second_head_can_be_chosen_on_the_command_line() -> None:
    choice = "+backbone/head@backbone.aux=deeplabv2"
    with torch.device("meta"):
        segmenter = built("tiny", choice, "backbone.network.aux_level=-3")
    channels = segmenter.backbone.channels[-3]
    assert {conv.in_channels for conv in segmenter.aux_head.classifiers} == {channels}
    assert len(segmenter.aux_head.classifiers) == 4


@pytest.mark.parametrize("level", [4, -5])
def test_the_second_head_needs_an_existing_map(level: int) -> None:
    with pytest.raises(ValueError, match=f"aux_level must be one of the 4 maps, got {level}"):
        build_segmenter(name="tiny", head=HEAD, num_classes=5, aux=HEAD, aux_level=level)


def test_settings_of_the_segmenter_arrive() -> None:
    settings = ["backbone.network.align_corners=true", "backbone.batch_norm=frozen_statistics"]
    with torch.device("meta"):
        segmenter = built("resnet50", *settings, "backbone.network.output_stride=16")
    assert segmenter.align_corners
    assert segmenter.batch_norm == "frozen_statistics"
    assert segmenter.backbone.strides == (4, 8, 16, 16)
