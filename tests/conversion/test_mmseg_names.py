"""Our networks under mmsegmentation's names: as its code has them, and back to the same bits."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Cli
from foreign_networks import SWIN, foreign, narrow, stirred
from test_published import layer, mmseg_swin, nvidia_mit
from torch import Tensor, nn

from sfseg.conversion import mmseg
from sfseg.conversion.naming import to_ours
from sfseg.conversion.upernet import RULES
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head, DeepLabV3Head
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.heads.upernet import UPerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import segmenter_names

NORMALISING = partial(SegFormerHead, channels=12, is_linear=False)
HEADS: dict[str, Any] = {
    "linear": partial(SegFormerHead, channels=12),
    "normalising": NORMALISING,
    "upernet": partial(UPerHead, channels=12, grids=(1, 2)),
    "daformer": partial(DAFormerHead, channels=12, dilations=(1, 2, 3)),
    "deeplabv2": partial(DeepLabV2Head, dilations=(1, 2)),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)


def network(name: str, head: str) -> Segmenter:
    built = build_segmenter(name=name, head=HEADS[head], num_classes=5)
    stirred(built)
    return built


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["mit_b0", SWIN])
def test_names_there_and_back(name: str, head: str) -> None:
    own = network(name, head)
    theirs = mmseg.tensors_of(own)
    assert all(key.startswith(("backbone.", "decode_head.")) for key in theirs)
    back = segmenter_names(theirs)
    assert back.keys() == own.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in own.state_dict().items())


def test_backbones_have_the_names_and_shapes_of_published_files() -> None:
    def shapes(name: str, head: str) -> dict[str, tuple[int, ...]]:
        tensors = mmseg.tensors_of(network(name, head))
        return {
            key.removeprefix("backbone."): tuple(tensor.shape)
            for key, tensor in tensors.items()
            if key.startswith("backbone.")
        }

    swins = mmseg_swin(24, (2, 2, 2, 2), (1, 2, 4, 8))
    computed = {key for key in swins if key.endswith("relative_position_index")}
    assert shapes(SWIN, "upernet") == {k: v for k, v in swins.items() if k not in computed}
    assert shapes("mit_b0", "linear") == nvidia_mit(8, (1, 2, 1, 1))
    assert shapes("mit_b0", "daformer") == nvidia_mit(8, (1, 2, 1, 1))
    mit = shapes("mit_b0", "normalising")
    # As in the configuration of mmseg's MixVisionTransformer.
    wanted = (
        layer("layers.1.0.projection", 16, 8, 3, 3)
        | layer("layers.1.1.1.attn.attn.out_proj", 16, 16)
        | layer("layers.1.1.1.attn.sr", 16, 16, 4, 4)
        | layer("layers.1.1.1.ffn.layers.0", 64, 16, 1, 1)
        | layer("layers.1.1.1.ffn.layers.1", 64, 1, 3, 3)
        | layer("layers.1.1.1.ffn.layers.4", 16, 64, 1, 1)
        | layer("layers.1.2", 16)
    )
    joined = {f"layers.1.1.1.attn.attn.in_proj_{kind}" for kind in ("weight", "bias")}
    assert wanted.items() <= mit.items() and joined <= mit.keys()
    assert mit["layers.1.1.1.attn.attn.in_proj_weight"] == (48, 16)


def conv_module(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Convolution, batch normalisation and ReLU, as mmcv's ConvModule."""
    weight = tensors[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    kinds = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(tensors[f"{name}.bn.{kind}"] for kind in kinds)).relu()


def test_mmsegs_segformer_head_computes_the_same() -> None:
    """From its formula: each level normalised, then enlarged, the finest one first."""
    own = network("mit_b0", "normalising").double()
    tensors = mmseg.tensors_of(own)
    maps = own.backbone(torch.rand(2, 3, 64, 96, dtype=torch.float64))
    levels = [conv_module(tensors, f"decode_head.convs.{k}", level) for k, level in enumerate(maps)]
    size = maps[0].shape[2:]
    stacked = torch.cat([F.interpolate(x, size=size, mode="bilinear") for x in levels], dim=1)
    fused = conv_module(tensors, "decode_head.fusion_conv", stacked)
    kinds = (tensors[f"decode_head.conv_seg.{kind}"] for kind in ("weight", "bias"))
    expected = F.conv2d(fused, *kinds)
    torch.testing.assert_close(own.head(maps), expected)


def test_upernet_is_that_of_transformers_under_other_names() -> None:
    """Which calls mmseg's bn batch_norm and its conv_seg classifier."""
    model = foreign("upernet_swin")
    head = {
        f"decode_head.{key}".replace(".batch_norm.", ".bn.").replace(
            ".classifier.", ".conv_seg."
        ): t
        for key, t in model.decode_head.state_dict().items()
    }
    ours = segmenter_names(head)
    keys = list(ours)
    theirs = {f"decode_head.{key}": t for key, t in model.decode_head.state_dict().items()}
    expected = to_ours(theirs, keys, RULES, without_use=r"^$", source="here")
    assert len(ours) == len(head) and expected.keys() == ours.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in keys)


def test_what_has_no_names_there_is_refused() -> None:
    other = build_segmenter(name="mit_b0", head=partial(DeepLabV3Head, channels=8), num_classes=5)
    with pytest.raises(ConfigError, match=r"got a Segmenter of MixTransformer and DeepLabV3Head"):
        mmseg.tensors_of(other)
    with pytest.raises(ConfigError, match=r"got a Linear of NoneType"):
        mmseg.parts_of(nn.Linear(2, 2))


def test_names_that_would_not_come_back_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmseg, "level_blocks_reversed", lambda tensor: tensor)
    with pytest.raises(ConfigError, match=r"^1 tensors would not .* such as head\.fuse\.0\.weight"):
        mmseg.tensors_of(network("mit_b0", "normalising"))


def test_a_file_of_mmseg_becomes_a_checkpoint_with_its_classes(cli: Cli, tmp_path: Path) -> None:
    from sfseg.runs.checkpoints import restore

    own = network("mit_b0", "normalising")
    labels = CITYSCAPES.only("five", (3, 1, 2, 0, 4))
    with Path("theirs.pth").open("wb") as file:
        mmseg.write(own, labels, file)
    stored = torch.load("theirs.pth", weights_only=True)
    stored["state_dict"] |= {"auxiliary_head.conv_seg.bias": torch.zeros(5)}
    torch.save(stored, "theirs.pth")
    done = cli("sfseg-convert", "source=theirs.pth", "output=ours.ckpt")
    assert done.code == 0, done.output
    assert "mmseg itself was not run" in done.output
    assert "1 weights of heads that the model has not" in done.output
    assert "backbone/head=segformer_mmseg" in done.output
    restored = restore("ours.ckpt")
    assert restored.labels.classes == labels.classes and restored.labels.palette == labels.palette
    found = restored.network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in own.state_dict().items())

    again = cli("sfseg-convert", "source=ours.ckpt", "output=again.pth", "to=mmseg")
    assert again.code == 0 and "type='SegformerHead', channels=12" in again.output, again.output
    there = torch.load("again.pth", weights_only=True)
    del stored["state_dict"]["auxiliary_head.conv_seg.bias"]
    assert there["meta"] == stored["meta"]
    assert all(torch.equal(there["state_dict"][k], v) for k, v in stored["state_dict"].items())
