from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from timm.models import vgg
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks import build as building
from sfseg.networks.adapters.choices import prompted
from sfseg.networks.adapters.visual_prompts import with_visual_prompts
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.heads.fcn import FCN8sHead
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.segmenter import Segmenter

CONF = Path(__file__).parents[2] / "conf"
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("[!_]*.yaml"))
# A smaller one, or its two halves elsewhere, run the same code.
SLOW = {"convnext_base", "swin_b", "swin_b_upernet", "swin_s", "resnet101", "resnet101_deeplabv2"}
SLOW |= {"clip_convnext_l", "clip_resnet101", "resnet101c_deeplabv2", "resnet101_deeplabv2_multi"}
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


def test_tiny_has_no_weights_to_download() -> None:
    with pytest.raises(ValueError, match=r"pretrained must be false for tiny, .* backbone.weights"):
        build_segmenter(name="tiny", head=HEAD, num_classes=5, pretrained=True)


SWIN = "swin_tiny_patch4_window7_224"
KINDS = ["tiny", "mit_b0", "test_resnet", "test_convnext", "vgg11_bn", SWIN]


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG without the wide layers of its classifier, and a narrow Swin."""
    create, narrow = timm.create_model, {"embed_dim": 24, "depths": (1, 1, 1, 1)}
    monkeypatch.setattr(vgg, "ConvMlp", lambda *_, **__: nn.Identity())
    monkeypatch.setattr(
        timm, "create_model", lambda name, **o: create(name, **(o | narrow if name == SWIN else o))
    )


def saved_run(folder: Path, network: Segmenter, **beside: nn.Module) -> str:
    """A checkpoint with the names that a run of ours gives to a network and to its teacher's."""
    held = nn.ModuleDict({"network": network, **beside})
    torch.save({"state_dict": held.state_dict(), "epoch": 3}, folder / "last.ckpt")
    return str(folder / "last.ckpt")


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("name", KINDS)
def test_every_backbone_takes_its_tensors_out_of_a_checkpoint(tmp_path: Path, name: str) -> None:
    network = build_segmenter(name=name, head=HEAD, num_classes=5)
    teacher = build_segmenter(name=name, head=HEAD, num_classes=5)
    path = saved_run(tmp_path, network, teacher=teacher)
    other_head = partial(SegFormerHead, channels=8)
    taken = build_segmenter(name=name, head=other_head, num_classes=7, weights=path)
    assert_same_tensors(taken.backbone, network.backbone)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tiny_takes_a_file_of_its_tensors(tmp_path: Path, suffix: str) -> None:
    backbone = build_segmenter(name="tiny", head=HEAD, num_classes=5).backbone
    path = tmp_path / f"tiny{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(backbone.state_dict(), path)
    taken = build_segmenter(name="tiny", head=HEAD, num_classes=5, weights=str(path))
    assert_same_tensors(taken.backbone, backbone)


@pytest.mark.parametrize("with_prompts", [prompted, with_visual_prompts])
def test_of_a_network_with_prompts_the_backbone_they_were_put_into_is_taken(
    tmp_path: Path, with_prompts: Callable[[Segmenter], Segmenter]
) -> None:
    network = build_segmenter(name="tiny", head=HEAD, num_classes=5)
    before = deepcopy(network.backbone)
    path = saved_run(tmp_path, with_prompts(network))
    taken = build_segmenter(name="tiny", head=HEAD, num_classes=5, weights=path)
    assert_same_tensors(taken.backbone, before)


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("name", [name for name in KINDS if name != "tiny"])
def test_a_checkpoint_of_another_backbone_is_refused(tmp_path: Path, name: str) -> None:
    path = saved_run(tmp_path, build_segmenter(name="tiny", head=HEAD, num_classes=5))
    with pytest.raises(ConfigError, match=r"must fit the model, got .*last\.ckpt with none of its"):
        build_segmenter(name=name, head=HEAD, num_classes=5, weights=path)


def test_fcn8s_needs_more_than_the_backbone_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg, "ConvMlp", lambda *_, **__: nn.Identity())
    fcn8s = partial(FCN8sHead, channels=16)
    path = saved_run(tmp_path, build_segmenter(name="vgg11_bn", head=fcn8s, num_classes=5))
    with pytest.raises(ConfigError, match=r"classifier too .* goes to backbone\.checkpoint"):
        build_segmenter(name="vgg11_bn", head=fcn8s, num_classes=5, weights=path)


def assert_same_tensors(module: nn.Module, expected: nn.Module) -> None:
    tensors = module.state_dict()
    assert tensors.keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert torch.equal(tensors[key], tensor), key


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


@pytest.fixture
def statistics(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Those that segmenters are built with: on the meta device their own have no values."""
    given: list[tuple[Sequence[float], Sequence[float]]] = []

    def noted(*parts: nn.Module, **settings: Any) -> Segmenter:
        given.append((settings["mean"], settings["std"]))
        return Segmenter(*parts, **settings)

    monkeypatch.setattr(building, "Segmenter", noted)
    return given


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pixels_are_as_the_weights_were_pretrained(
    backbone: str, statistics: list[tuple[Sequence[float], Sequence[float]]]
) -> None:
    with torch.device("meta"):
        built(backbone)
    clip = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert statistics == [clip if backbone.startswith("clip_") else imagenet]


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
def test_pixels_of_a_model_with_other_statistics(name: str) -> None:
    segmenter = build_segmenter(name=name, head=HEAD, num_classes=5)
    extremes = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    assert segmenter.normalize(extremes).tolist() == [[[[-1, 1]]] * 3]


def test_pixels_can_be_set() -> None:
    settings = ["backbone.network.mean=[0.1,0.2,0.3]", "backbone.network.std=[1,0.5,0.25]"]
    segmenter = built("tiny", *settings)
    white = segmenter.normalize(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(white, torch.tensor([0.9, 1.6, 2.8]))
    settings = ["backbone.network.name=test_resnet", settings[0]]
    white = built("resnet50", *settings).normalize(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(white, torch.tensor([1.8, 1.6, 1.4]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (123.675, 116.28, 103.53)}, {"mean": (0.5,)}, {"std": (0, 0.5, 0.5)},
        {"std": (58.4, 57.1, 57.4)}, {"mean": (-0.1, 0.5, 0.5)}, {"mean": (float("nan"),) * 3},
    ],
)  # fmt: skip
def test_pixels_that_cannot_be(wrong: dict[str, Sequence[float]]) -> None:
    with pytest.raises(ValueError, match=rf"network\.{next(iter(wrong))} must be three numbers in"):
        build_segmenter(name="tiny", head=HEAD, num_classes=5, **wrong)


def test_settings_of_the_segmenter_arrive() -> None:
    settings = ["backbone.network.align_corners=true", "backbone.batch_norm=frozen_statistics"]
    with torch.device("meta"):
        segmenter = built("resnet50", *settings, "backbone.network.output_stride=16")
    assert segmenter.align_corners
    assert segmenter.batch_norm == "frozen_statistics"
    assert segmenter.backbone.strides == (4, 8, 16, 16)
