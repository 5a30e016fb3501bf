"""Files as other projects publish them, loaded into whole models."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from sfseg.config.trust import trusting
from sfseg.errors import ConfigError
from sfseg.networks.backbones import mit
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head

SWIN = "swin_tiny_patch4_window7_224"
NARROW = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
NARROW_RESNET = {"layers": (1, 2, 1, 1), "channels": (8, 16, 32, 64), "stem_width": 4}
NARROWED = {SWIN: NARROW, "resnet101c": NARROW_RESNET}
WIDTHS = (24, 48, 96, 192)
HEAD = partial(DAFormerHead, channels=8, dilations=(1, 2, 3))
build = partial(build_segmenter, head=HEAD, num_classes=5)

T = TypeVar("T")
Shapes = dict[str, tuple[int, ...]]
SCALAR = torch.zeros(())


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with all their parts that are built and run in a fraction of a second."""
    create = timm.create_model

    def create_narrow(name: str, **options: object) -> nn.Module:
        return create(name, **(NARROWED.get(name, {}) | options))

    monkeypatch.setattr(timm, "create_model", create_narrow)
    monkeypatch.setitem(mit.VARIANTS, "mit_b0", (8, (1, 2, 1, 1)))


# The names of published files, written down from the files


def layer(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def batch_norm(name: str, width: int) -> Shapes:
    statistics = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return {**layer(name, width), **statistics, f"{name}.num_batches_tracked": ()}


def mmseg_swin(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> Shapes:
    shapes = layer("patch_embed.projection", width, 3, 4, 4) | layer("patch_embed.norm", width)
    for i, (depth, num_heads) in enumerate(zip(depths, heads, strict=True)):
        c = width * 2**i
        for start in (f"stages.{i}.blocks.{j}" for j in range(depth)):
            shapes |= layer(f"{start}.norm1", c) | layer(f"{start}.norm2", c)
            shapes[f"{start}.attn.w_msa.relative_position_bias_table"] = (169, num_heads)
            shapes[f"{start}.attn.w_msa.relative_position_index"] = (49, 49)
            shapes |= layer(f"{start}.attn.w_msa.qkv", 3 * c, c)
            shapes |= layer(f"{start}.attn.w_msa.proj", c, c)
            shapes |= layer(f"{start}.ffn.layers.0.0", 4 * c, c)
            shapes |= layer(f"{start}.ffn.layers.1", c, 4 * c)
        if i < 3:
            shapes |= layer(f"stages.{i}.downsample.norm", 4 * c)
            shapes[f"stages.{i}.downsample.reduction.weight"] = (2 * c, 4 * c)
        shapes |= layer(f"norm{i}", c)
    return shapes


def nvidia_mit(head_dim: int, depths: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    before = 3
    for i, (depth, heads, ratio) in enumerate(zip(depths, (1, 2, 5, 8), (8, 4, 2, 1), strict=True)):
        c, kernel = head_dim * heads, 3 if i else 7
        shapes |= layer(f"patch_embed{i + 1}.proj", c, before, kernel, kernel)
        shapes |= layer(f"patch_embed{i + 1}.norm", c) | layer(f"norm{i + 1}", c)
        for start in (f"block{i + 1}.{j}" for j in range(depth)):
            shapes |= layer(f"{start}.norm1", c) | layer(f"{start}.norm2", c)
            shapes |= layer(f"{start}.attn.q", c, c) | layer(f"{start}.attn.kv", 2 * c, c)
            shapes |= layer(f"{start}.attn.proj", c, c)
            if ratio > 1:
                shapes |= layer(f"{start}.attn.sr", c, c, ratio, ratio)
                shapes |= layer(f"{start}.attn.norm", c)
            shapes |= layer(f"{start}.mlp.fc1", 4 * c, c) | layer(f"{start}.mlp.fc2", c, 4 * c)
            shapes |= layer(f"{start}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
        before = c
    return shapes


def daformer_head(
    widths: tuple[int, ...], num_classes: int = 19, channels: int = 256, branches: int = 4
) -> Shapes:
    shapes = layer("conv_seg", num_classes, channels, 1, 1)
    for i, width in enumerate(widths):
        shapes |= layer(f"embed_layers.{i}.proj", channels, width)
    stacked, aspp = 4 * channels, "fuse_layer.aspp_modules"
    for k in range(branches):
        if k:
            shapes[f"{aspp}.{k}.depthwise_conv.conv.weight"] = (stacked, 1, 3, 3)
            shapes |= batch_norm(f"{aspp}.{k}.depthwise_conv.bn", stacked)
        last = f"{aspp}.{k}.pointwise_conv" if k else f"{aspp}.{k}"
        shapes[f"{last}.conv.weight"] = (channels, stacked, 1, 1)
        shapes |= batch_norm(f"{last}.bn", channels)
    shapes["fuse_layer.bottleneck.conv.weight"] = (channels, branches * channels, 3, 3)
    return shapes | batch_norm("fuse_layer.bottleneck.bn", channels)


def mmseg_resnet_v1c(depths: tuple[int, ...] = (3, 4, 23, 3), width: int = 64) -> Shapes:
    shapes: Shapes = {}
    stem = ((0, 3, width // 2), (3, width // 2, width // 2), (6, width // 2, width))
    for index, before, after in stem:
        shapes[f"stem.{index}.weight"] = (after, before, 3, 3)
        shapes |= batch_norm(f"stem.{index + 1}", after)
    before = width
    for stage, depth in enumerate(depths):
        middle = width * 2**stage
        for block in range(depth):
            start = f"layer{stage + 1}.{block}"
            sizes = ((middle, before, 1), (middle, middle, 3), (4 * middle, middle, 1))
            for i, (after, inputs, side) in enumerate(sizes, 1):
                shapes[f"{start}.conv{i}.weight"] = (after, inputs, side, side)
                shapes |= batch_norm(f"{start}.bn{i}", after)
            if not block:
                shapes[f"{start}.downsample.0.weight"] = (4 * middle, before, 1, 1)
                shapes |= batch_norm(f"{start}.downsample.1", 4 * middle)
            before = 4 * middle
    return shapes


def dlv2_head(width: int = 2048, branches: int = 2, num_classes: int = 19) -> Shapes:
    shapes: Shapes = {}
    for i in range(branches):
        shapes |= layer(f"aspp_modules.{i}.conv", num_classes, width, 3, 3)
    return shapes


def hrda_head(head: Shapes, attention: Shapes) -> Shapes:
    return prefixed("head.", head) | prefixed("scale_attention.", attention)


def light_daformer_head(
    widths: tuple[int, ...], num_classes: int = 19, channels: int = 256
) -> Shapes:
    shapes = layer("conv_seg", num_classes, channels, 1, 1)
    for i, width in enumerate(widths):
        shapes |= layer(f"embed_layers.{i}.proj", channels, width)
    shapes["fuse_layer.conv.weight"] = (channels, len(widths) * channels, 1, 1)
    return shapes | batch_norm("fuse_layer.bn", channels)


def segmenter(backbone: Shapes, head: Shapes) -> Shapes:
    return prefixed("backbone.", backbone) | prefixed("decode_head.", head)


def prefixed(prefix: str, named: Mapping[str, T]) -> dict[str, T]:
    return {prefix + key: value for key, value in named.items()}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    tensors = {key: torch.randn(shape) for key, shape in shapes.items()}
    for key, tensor in tensors.items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            tensors[key] = tensor.abs() + 0.5
        elif key.endswith("relative_position_index"):
            tensors[key] = torch.zeros(tensor.shape, dtype=torch.int64)
    return tensors


def saved(path: Path, tensors: Mapping[str, Tensor], **beside: object) -> str:
    torch.save({"meta": {"CLASSES": ("road",), "iter": 3}, "state_dict": tensors, **beside}, path)
    return str(path)


MIT_B0 = (8, (1, 2, 1, 1))
MIT_WIDTHS = (8, 16, 40, 64)
SMALL_HEAD = {"num_classes": 5, "channels": 8, "branches": 3}


def mit_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return filled(segmenter(nvidia_mit(*MIT_B0), daformer_head(MIT_WIDTHS, **SMALL_HEAD)))


# Full-size files of Uni-UVPT's source models: names and shapes without values

DAFORMER_COUNTS = {
    "conv_seg": 2, "embed_layers.#.proj": 8, "fuse_layer.aspp_modules.#.conv": 1,
    "fuse_layer.aspp_modules.#.bn": 5, "fuse_layer.aspp_modules.#.depthwise_conv.conv": 3,
    "fuse_layer.aspp_modules.#.depthwise_conv.bn": 15, "fuse_layer.bottleneck.bn": 5,
    "fuse_layer.aspp_modules.#.pointwise_conv.conv": 3, "fuse_layer.bottleneck.conv": 1,
    "fuse_layer.aspp_modules.#.pointwise_conv.bn": 15,
}  # fmt: skip
SWIN_B_COUNTS = {
    "patch_embed.projection": 2, "patch_embed.norm": 2, "norm#": 8, "stages.#.downsample.norm": 6,
    "stages.#.downsample.reduction": 3, "stages.#.blocks.#.norm#": 96,
    "stages.#.blocks.#.attn.w_msa": 48, "stages.#.blocks.#.attn.w_msa.qkv": 48,
    "stages.#.blocks.#.attn.w_msa.proj": 48, "stages.#.blocks.#.ffn.layers.#.#": 48,
    "stages.#.blocks.#.ffn.layers.#": 48,
}  # fmt: skip
MIT_B5_COUNTS = {
    "patch_embed#.proj": 8, "patch_embed#.norm": 8, "norm#": 8, "block#.#.norm#": 208,
    "block#.#.attn.q": 104, "block#.#.attn.kv": 104, "block#.#.attn.proj": 104,
    "block#.#.attn.sr": 98, "block#.#.attn.norm": 98, "block#.#.mlp.fc#": 208,
    "block#.#.mlp.dwconv.dwconv": 104,
}  # fmt: skip
SWIN_B = segmenter(
    mmseg_swin(128, (2, 2, 18, 2), (4, 8, 16, 32)), daformer_head((128, 256, 512, 1024))
)
MIT_B4 = nvidia_mit(64, (3, 8, 27, 3))
MIT_B5 = segmenter(nvidia_mit(64, (3, 6, 40, 3)), daformer_head((64, 128, 320, 512)))


@pytest.fixture
def loaded(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="sfseg.networks.weights.checkpoint"):
        yield caplog


@pytest.mark.parametrize(
    ("name", "shapes", "counts", "total", "line"),
    [
        (
            "swin_base_patch4_window7_224", SWIN_B, SWIN_B_COUNTS, 415,
            "391 tensors loaded; left aside: 24 buffers that are computed anew",
        ),
        ("mit_b5", MIT_B5, MIT_B5_COUNTS, 1110, "1110 tensors loaded"),
    ],
)  # fmt: skip
def test_source_models_of_uni_uvpt_fit(
    tmp_path: Path,
    loaded: pytest.LogCaptureFixture,
    name: str,
    shapes: Shapes,
    counts: dict[str, int],
    total: int,
    line: str,
) -> None:
    modules = [re.sub(r"\d+", "#", key.rpartition(".")[0]) for key in shapes]
    expected = prefixed("backbone.", counts) | prefixed("decode_head.", DAFORMER_COUNTS)
    assert Counter(modules) == expected and len(shapes) == total
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    path = saved(tmp_path / "released.pth", tensors)
    with torch.device("meta"):
        # The download of pretrained weights is not even tried.
        build_segmenter(
            name=name, head=DAFormerHead, num_classes=19, checkpoint=path, pretrained=True
        )
    assert loaded.messages == [f"{path}: {line}"]


def test_file_of_another_variant_names_every_key(tmp_path: Path) -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in MIT_B4.items()}
    torch.save(tensors, tmp_path / "mit_b4.pth")
    with pytest.raises(ConfigError, match=r"mit_b4\.pth with ") as raised, torch.device("meta"):
        build(name="mit_b5", weights=str(tmp_path / "mit_b4.pth"))
    message = str(raised.value)
    assert "260 keys missing: block#.#.norm#.weight (26), block#.#.norm#.bias (26), " in message
    assert "; 40 keys unexpected: block#.#.norm#.weight (4), " in message
    assert "block#.#.mlp.dwconv.dwconv.weight (13)" in message and len(message) < 1300


# mmseg's Swin with values, against torchvision's


def mmseg_name(name: str) -> str:
    """Where mmseg keeps a weight of torchvision's Swin."""
    name = re.sub(r"^features\.0\.0", "patch_embed.projection", name)
    name = re.sub(r"^features\.0\.2", "patch_embed.norm", name)
    name = name.replace(".mlp.0.", ".ffn.layers.0.0.").replace(".mlp.3.", ".ffn.layers.1.")
    name = name.replace(".attn.", ".attn.w_msa.")
    name = re.sub(
        r"^features\.([1357])\.(\d+)", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}", name
    )
    return re.sub(r"^features\.([246])", lambda m: f"stages.{int(m[1]) // 2 - 1}.downsample", name)


def mmseg_tensors(network: SwinTransformer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        if ".downsample" in mmseg_name(key):
            width = value.shape[-1] // 4
            # torchvision stacks the corners (0, 0), (1, 0), (0, 1), (1, 1), each with all
            # channels; mmseg unfolds: column c * 4 + y * 2 + x.
            value = value[..., [(2 * x + y) * width + c
                                for c in range(width) for y in (0, 1) for x in (0, 1)]]  # fmt: skip
        if "relative_position_index" in key:
            value = value.view(49, 49)
        if key.startswith("features."):
            tensors[mmseg_name(key)] = value
    return tensors


@pytest.fixture(scope="module")
def swin() -> SwinTransformer:
    torch.manual_seed(0)
    network = SwinTransformer([4, 4], 24, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7]).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def stages(network: SwinTransformer, image: Tensor) -> list[Tensor]:
    maps = []
    x = image
    for level in range(4):
        x = network.features[2 * level + 1](network.features[2 * level](x))
        maps.append(x)  # (B, H, W, C)
    return maps


def double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() for key, value in tensors.items()}


def daformer_logits(tensors: Mapping[str, Tensor], maps: list[Tensor]) -> Tensor:
    """DAFormer's head from its formula, with the dilations of this file."""

    def conv_module(name: str, x: Tensor, **options: int) -> Tensor:
        x = F.conv2d(x, tensors[f"{name}.conv.weight"], **options)
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(tensors[f"{name}.bn.{kind}"] for kind in kinds)).relu()

    levels = []
    for i, feature in enumerate(maps):
        name = f"embed_layers.{i}.proj"
        x = F.linear(feature.movedim(1, -1), tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        levels.append(F.interpolate(x.movedim(-1, 1), size=maps[0].shape[2:], mode="bilinear"))
    x = torch.cat(levels, 1)
    branches = [conv_module("fuse_layer.aspp_modules.0", x)]
    for k, gap in ((1, 2), (2, 3)):
        name = f"fuse_layer.aspp_modules.{k}"
        wide = conv_module(
            f"{name}.depthwise_conv", x, padding=gap, dilation=gap, groups=x.shape[1]
        )
        branches.append(conv_module(f"{name}.pointwise_conv", wide))
    x = conv_module("fuse_layer.bottleneck", torch.cat(branches, 1), padding=1)
    return F.conv2d(x, tensors["conv_seg.weight"], tensors["conv_seg.bias"])


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_swin_of_mmseg_computes_what_torchvisions_does(
    tmp_path: Path, swin: SwinTransformer, prefix: str
) -> None:
    norms: dict[str, Tensor] = {}
    for i, width in enumerate(WIDTHS):
        norms |= filled(layer(f"norm{i}", width))
    head = filled(daformer_head(WIDTHS, **SMALL_HEAD))
    tensors = prefixed("backbone.", mmseg_tensors(swin) | norms) | prefixed("decode_head.", head)
    path = saved(tmp_path / "swin.pth", prefixed(prefix, tensors), optimizer={"state": {}})
    ours = build(name=SWIN, checkpoint=path).eval()
    alone = build(name=SWIN, weights=path).eval()
    image = torch.rand(1, 3, 256, 512)
    with torch.inference_mode():
        maps = ours.backbone(image)
        for i, (feature, theirs) in enumerate(zip(maps, stages(swin, image), strict=True)):
            weight, bias = norms[f"norm{i}.weight"], norms[f"norm{i}.bias"]
            normalised = F.layer_norm(theirs, theirs.shape[-1:], weight, bias)
            torch.testing.assert_close(feature.movedim(1, -1), normalised, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.backbone(image), maps)
        maps = [feature.double() for feature in maps]
        logits = daformer_logits(double(head), maps)
        torch.testing.assert_close(ours.head.double()(maps), logits)


def test_classifier_of_mmseg_leaves_the_output_norms_at_their_start(
    tmp_path: Path, swin: SwinTransformer, loaded: pytest.LogCaptureFixture
) -> None:
    extra = filled(layer("norm", 192) | layer("head", 7, 192))
    torch.save(mmseg_tensors(swin) | extra, tmp_path / "classifier.pth")
    network = TimmPyramid(SWIN, weights=str(tmp_path / "classifier.pth"))
    for norm in network.norms:
        assert (norm.weight == 1).all() and not norm.bias.any()
    weight = swin.features[3][0].attn.qkv.weight
    torch.testing.assert_close(network.trunk.layers[1].blocks[0].attn.qkv.weight, weight)
    assert "4 weights of a classifier" in loaded.text
    assert "left at their start: norms.#.weight (4), norms.#.bias (4)" in loaded.text


def test_output_norms_must_be_there_all_or_none(tmp_path: Path, swin: SwinTransformer) -> None:
    norms: dict[str, Tensor] = {}
    for i, width in enumerate(WIDTHS):
        norms |= filled(layer(f"norm{i}", width))
    del norms["norm1.bias"]
    path = saved(tmp_path / "swin.pth", prefixed("backbone.", mmseg_tensors(swin) | norms))
    with pytest.raises(ConfigError, match=r"1 keys missing: norms\.1\.bias"):
        build(name=SWIN, weights=path)


def test_resnet_101_of_daformers_code_computes_its_stem_and_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = segmenter(mmseg_resnet_v1c((1, 2, 1, 1), width=8), dlv2_head(256, num_classes=5))
    tensors = filled(shapes)
    for key, tensor in tensors.items():
        if tensor.ndim > 1:
            tensors[key] = tensor * tensor[0].numel() ** -0.5
        elif "backbone" in key and key.endswith("weight"):
            tensors[key] = 1 + 0.1 * tensor  # so that activations neither vanish nor explode
    path = saved(tmp_path / "r101.pth", prefixed("model.", tensors))
    ours = build_segmenter(
        name="resnet101c", head=DeepLabV2Head, num_classes=5, output_stride=8, checkpoint=path
    ).eval()
    entering: list[Tensor] = []
    ours.backbone.trunk.layer1.register_forward_pre_hook(lambda _, given: entering.extend(given))
    image = torch.rand(1, 3, 64, 96)

    x = image
    for index, stride in ((0, 2), (3, 1), (6, 1)):
        x = F.conv2d(x, tensors[f"backbone.stem.{index}.weight"], stride=stride, padding=1)
        kinds = ("running_mean", "running_var", "weight", "bias")
        norm = (tensors[f"backbone.stem.{index + 1}.{kind}"] for kind in kinds)
        x = F.batch_norm(x, *norm).relu()
    with torch.inference_mode():
        maps = ours.backbone(image)
        torch.testing.assert_close(entering[0], F.max_pool2d(x, 3, stride=2, padding=1))
        assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (8, 12), (8, 12)]
        start = "decode_head.aspp_modules"
        scores = [
            F.conv2d(
                maps[-1].double(), tensors[f"{start}.{i}.conv.weight"].double(),
                tensors[f"{start}.{i}.conv.bias"].double(), padding=gap, dilation=gap,
            )
            for i, gap in enumerate((6, 12))
        ]  # fmt: skip
        logits = ours.head.double()([m.double() for m in maps])
        torch.testing.assert_close(logits, sum(scores))


# MiT in its three namings


def mmseg_mit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's file as mmseg's converter writes it."""
    converted: dict[str, Tensor] = {}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        stage = f"layers.{int(part[-1]) - 1}"
        if part.startswith("patch_embed"):
            converted[f"{stage}.0.{rest.replace('proj.', 'projection.')}"] = value
        elif part.startswith("norm"):
            converted[f"{stage}.2.{rest}"] = value
        elif ".attn.q." in key:
            both = torch.cat([value, tensors[key.replace(".q.", ".kv.")]])
            converted[f"{stage}.1.{rest.replace('attn.q.', 'attn.attn.in_proj_')}"] = both
        elif ".attn.kv." not in key:
            rest = rest.replace("attn.proj", "attn.attn.out_proj")
            rest = rest.replace("mlp.dwconv.dwconv", "ffn.layers.1")
            for name, index in (("fc1", 0), ("fc2", 4)):
                if f"mlp.{name}.weight" in rest:
                    value = value[:, :, None, None]
                rest = rest.replace(f"mlp.{name}", f"ffn.layers.{index}")
            converted[f"{stage}.1.{rest}"] = value
    return converted


@pytest.mark.parametrize("kind", ["NVIDIA", "mmseg", "mmseg segmenter", "DAFormer"])
def test_mit_is_read_in_every_naming(tmp_path: Path, kind: str) -> None:
    tensors = mit_tensors()
    backbone = {k.removeprefix("backbone."): v for k, v in tensors.items() if k[0] == "b"}
    path = tmp_path / "mit.pth"
    if kind == "NVIDIA":
        torch.save(backbone | filled(layer("head", 10, 64)), path)
    elif kind == "mmseg":
        torch.save(mmseg_mit(backbone), path)
    elif kind == "mmseg segmenter":
        saved(path, prefixed("backbone.", mmseg_mit(backbone)) | {"decode_head.a": torch.ones(1)})
    else:
        copies = {f"{copy}.{k}": v + 1 for copy in ("ema_model", "imnet_model")
                  for k, v in tensors.items()}  # fmt: skip
        saved(path, copies | prefixed("model.", tensors))
    ours = build(name="mit_b0", weights=str(path)).backbone.state_dict()
    torch.testing.assert_close(dict(ours), backbone)


def test_whole_daformer_is_read_and_the_rest_reported(
    tmp_path: Path, loaded: pytest.LogCaptureFixture
) -> None:
    tensors = mit_tensors()
    beside = filled(prefixed("model.auxiliary_head.", layer("conv_seg", 5, 8, 1, 1)))
    beside |= prefixed("ema_model.", tensors) | {"model.decode_head.scale": torch.ones(1)}
    path = saved(tmp_path / "daformer.pth", prefixed("model.", tensors) | beside)
    ours = build(name="mit_b0", checkpoint=path).eval()
    backbone = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
    torch.testing.assert_close(prefixed("backbone.", ours.backbone.state_dict()), backbone)
    head = {k.removeprefix("decode_head."): v for k, v in tensors.items() if k not in backbone}
    maps = [torch.rand(1, w, 16 >> i, 24 >> i).double() for i, w in enumerate(MIT_WIDTHS)]
    with torch.inference_mode():
        torch.testing.assert_close(ours.head.double()(maps), daformer_logits(double(head), maps))
    count = len(tensors)
    assert loaded.messages == [
        f"{path}: {count} tensors loaded; left aside: 3 weights of heads that the model has not, "
        f"{count} tensors beside the model"
    ]


@pytest.mark.parametrize("name", ["tiny", "mit_b0", SWIN, "test_resnet"])
def test_checkpoint_of_an_own_run(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    source = build(name=name)
    tensors = prefixed("network.", source.state_dict())
    teacher = prefixed("teacher.", build(name=name).state_dict())
    path = saved(tmp_path / "last.ckpt", teacher | tensors, epoch=3)
    ours = build(name=name, checkpoint=path)
    torch.testing.assert_close(dict(ours.state_dict()), dict(source.state_dict()))
    if name != "tiny":
        ours = build(name=name, weights=path)
        torch.testing.assert_close(
            dict(ours.backbone.state_dict()), dict(source.backbone.state_dict())
        )


def test_resnet_of_mmseg_has_torchvisions_names(tmp_path: Path) -> None:
    source = TimmPyramid("test_resnet").trunk.state_dict()
    path = saved(tmp_path / "r.pth", prefixed("backbone.", source) | {"decode_head.a": SCALAR})
    ours = TimmPyramid("test_resnet", weights=path).trunk.state_dict()
    torch.testing.assert_close(dict(ours), dict(source))


# Faults


def test_weights_beside_a_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"weights must be null beside .*=a\.pth.*, got b\.pth"):
        build(name="mit_b0", checkpoint="a.pth", weights="b.pth")


def test_mit_is_not_downloaded() -> None:
    with pytest.raises(
        ValueError, match=r"pretrained must be false for mit_b0.*NVIDIA.*weights=<mit_b0\.pth>"
    ):
        build(name="mit_b0", pretrained=True)


def test_unknown_mit() -> None:
    with pytest.raises(ValueError, match=r"must be one of mit_b0, .*, got mit_b9"):
        build(name="mit_b9")


@pytest.mark.parametrize("use", ["weights", "checkpoint"])
def test_truncated_file(tmp_path: Path, use: str) -> None:
    path = Path(saved(tmp_path / "cut.pth", mit_tensors()))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"cut\.pth"):
        build(name="mit_b0", **{use: str(path)})


@pytest.mark.parametrize("use", ["weights", "checkpoint"])
def test_code_beside_the_tensors_is_not_executed(tmp_path: Path, use: str) -> None:
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {marker}",)

    path = saved(tmp_path / "evil.pth", mit_tensors(), hooks=Payload())
    with pytest.raises(ConfigError, match=r"executed to be read \(\w+\.system\); nothing was exec"):
        build(name="mit_b0", **{use: path})
    assert not marker.exists()


def test_record_of_numbers_beside_the_tensors_and_the_way_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pth", mit_tensors(), best_score=np.float64(0.5))
    with pytest.raises(ConfigError, match=r"best\.pth, which also .*\(numpy.*scalar") as raised:
        build(name="mit_b0", checkpoint=path)
    assert 'torch.save({"state_dict": torch.load(f, weights_only=False)["state_dict"]}, out)' in (
        str(raised.value)
    )
    out = tmp_path / "tensors.pth"
    torch.save({"state_dict": torch.load(path, weights_only=False)["state_dict"]}, out)
    build(name="mit_b0", checkpoint=str(out))


def test_trust_lets_numbers_be_read_and_nothing_that_does_things(tmp_path: Path) -> None:
    record = {"best": np.float64(0.5), "curve": np.arange(3.0), "when": datetime.now(UTC)}
    path = saved(tmp_path / "best.pth", mit_tensors(), record=record)
    with pytest.raises(ConfigError) as raised:
        build(name="mit_b0", checkpoint=path)
    held = re.search(r"executed to be read \((.*?)\)", str(raised.value))
    assert held
    with trusting(held[1].split(", ")):
        build(name="mit_b0", checkpoint=path)
    with pytest.raises(ConfigError):
        build(name="mit_b0", checkpoint=path)

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    path = saved(tmp_path / "evil.pth", mit_tensors(), hooks=Payload())
    with (
        trusting(["posix.system", "os.system", "os", "posix"]),
        pytest.raises(ConfigError, match="nothing was executed"),
    ):
        build(name="mit_b0", checkpoint=path)
    assert not (tmp_path / "marker").exists()


def test_another_number_of_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "synthia.pth", mit_tensors())
    with pytest.raises(ConfigError, match="checkpoint has 5 classes, the model 19"):
        build(name="mit_b0", checkpoint=path, num_classes=19)


@pytest.mark.parametrize("name", ["mit_b0", SWIN])
def test_file_of_a_resnet(tmp_path: Path, name: str) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(
        ConfigError, match=r"resnet\.pth with none of its \d+ tensors but timm's names \(conv1"
    ):
        build(name=name, weights=str(tmp_path / "resnet.pth"))


@pytest.mark.parametrize("use", ["weights", "checkpoint"])
def test_mit_into_a_swin(tmp_path: Path, use: str) -> None:
    path = saved(tmp_path / "mit.pth", mit_tensors())
    with pytest.raises(ConfigError, match=r"none of its \d+ tensors but mmseg's names \(backbone"):
        build(name=SWIN, **{use: path})


def test_deeper_swin_with_timms_names(tmp_path: Path) -> None:
    deeper = timm.create_model(SWIN, depths=(2, 2, 4, 2)).state_dict()
    torch.save(deeper, tmp_path / "deeper.pth")
    with pytest.raises(ConfigError, match=r"26 keys unexpected: trunk\.layers\.#\.blocks"):
        build(name=SWIN, weights=str(tmp_path / "deeper.pth"))


def test_backbone_alone_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(filled(nvidia_mit(*MIT_B0)), tmp_path / "mit.pth")
    with pytest.raises(
        ConfigError, match=r"a whole segmenter, got .* NVIDIA's names .*; backbone\.weights takes"
    ):
        build(name="mit_b0", checkpoint=str(tmp_path / "mit.pth"))


def test_another_head_is_missed_completely(tmp_path: Path) -> None:
    other = filled({f"decode_head.convs.{i}.conv.weight": (8, 8, 1, 1) for i in range(4)})
    backbone = {key: value for key, value in mit_tensors().items() if key[0] == "b"}
    path = saved(tmp_path / "segformer.pth", backbone | other)
    with pytest.raises(ConfigError, match=r"\d+ keys missing: head\.embeddings\.#\.weight \(4\)"):
        build(name="mit_b0", checkpoint=path)
