"""Networks of ours under the names of mmsegmentation and of code that was built on it."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sfseg.conversion import swin
from sfseg.conversion.naming import counted, to_theirs
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.heads.upernet import UPerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules, level_blocks_reversed, segmenter_names

MMSEG, NVIDIA, DAFORMER = "mmsegmentation", "NVIDIA's SegFormer", "DAFormer"


class Part(NamedTuple):
    """A backbone or a head there.

    code: whose it is.
    rules: from our names to theirs.
    config: what its configuration says.
    """

    code: str
    rules: Rules
    config: dict[str, Any]


_MIT: Rules = (
    (r"^backbone\.patch_embed(\d)\.proj\.", counted("backbone.layers.#.0.projection.", -1)),
    (r"^backbone\.patch_embed(\d)\.norm\.", counted("backbone.layers.#.0.norm.", -1)),
    (r"^backbone\.norm(\d)\.", counted("backbone.layers.#.2.", -1)),
    (r"^backbone\.block(\d)\.", counted("backbone.layers.#.1.", -1)),
    (r"\.attn\.(q|kv)\.", ".attn.attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.attn.out_proj."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.layers.1."),
    (r"\.mlp\.fc2\.", ".ffn.layers.4."),
)
_SWIN: Rules = (
    (r"^backbone\.norms\.(\d)\.", r"backbone.norm\1."),
    (r"^backbone\.trunk\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.trunk\.patch_embed\.norm\.", "backbone.patch_embed.norm."),
    (r"^backbone\.trunk\.layers\.(\d)\.downsample\.",
     counted("backbone.stages.#.downsample.", -1)),
    (r"^backbone\.trunk\.layers\.", "backbone.stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)  # fmt: skip
_RESNET_C: Rules = (
    (r"^backbone\.trunk\.conv1\.", "backbone.stem."),
    (r"^backbone\.trunk\.bn1\.", "backbone.stem.7."),
    (r"^backbone\.trunk\.", "backbone."),
)
_CONV_BN: Rules = (
    (r"^(decode_head\..*)\.0\.(weight|bias)$", r"\1.conv.\2"),
    (r"^(decode_head\..*)\.1\.(\w+)$", r"\1.bn.\2"),
    (r"^head\.classifier\.", "decode_head.conv_seg."),
)
_SEGFORMER: Rules = (
    (r"^head\.embeddings\.", "decode_head.convs."),
    (r"^head\.fuse\.", "decode_head.fusion_conv."),
    *_CONV_BN,
)
_NVIDIA: Rules = (
    (r"^head\.embeddings\.(\d)\.", counted("decode_head.linear_c#.proj.", 1)),
    (r"^head\.fuse\.0\.", "decode_head.linear_fuse.conv."),
    (r"^head\.fuse\.1\.", "decode_head.linear_fuse.bn."),
    (r"^head\.classifier\.", "decode_head.linear_pred."),
)
_UPERNET: Rules = (
    (r"^head\.contexts\.(\d)\.conv\.", r"decode_head.psp_modules.\1.1."),
    (r"^head\.bottleneck\.", "decode_head.bottleneck."),
    (r"^head\.laterals\.", "decode_head.lateral_convs."),
    (r"^head\.smooths\.", "decode_head.fpn_convs."),
    (r"^head\.fuse\.", "decode_head.fpn_bottleneck."),
    *_CONV_BN,
)
_DAFORMER: Rules = (
    (r"^head\.embeddings\.(\d)\.", r"decode_head.embed_layers.\1.proj."),
    (r"^head\.branches\.", "decode_head.fuse_layer.aspp_modules."),
    (r"^head\.bottleneck\.", "decode_head.fuse_layer.bottleneck."),
    (r"(\.aspp_modules\.\d+)\.0\.(0|1)\.(\w+)$", r"\1.depthwise_conv.\2.\3"),
    (r"(\.aspp_modules\.\d+)\.1\.(0|1)\.(\w+)$", r"\1.pointwise_conv.\2.\3"),
    *_CONV_BN,
)
_DEEPLAB_V2: Rules = ((r"^head\.classifiers\.(\d)\.", r"decode_head.aspp_modules.\1.conv."),)


def backbone_part(network: Segmenter, *, is_nvidia: bool) -> Part | None:
    """What the backbone is there; None where it is nothing.

    Args:
        network: ours.
        is_nvidia: an MiT keeps the names of its authors, as beside their own head and DAFormer's.
    """
    backbone = network.backbone
    if isinstance(backbone, MixTransformer):
        depths = [len(list(backbone.get_submodule(f"block{k}").children())) for k in (1, 2, 3, 4)]
        if is_nvidia:
            return Part(NVIDIA, (), {"type": f"mit with {depths} blocks"})
        config = {
            "type": "MixVisionTransformer",
            "embed_dims": backbone.channels[0],
            "num_layers": depths,
            "num_heads": [width // backbone.channels[0] for width in backbone.channels],
        }
        return Part(MMSEG, _MIT, config)
    if swin.is_swin(network):
        own = swin.configuration(network)
        names = {
            "embed_dims": "embed_dim",
            "depths": "depths",
            "num_heads": "num_heads",
            "window_size": "window_size",
        }
        config = {theirs: own[ours] for theirs, ours in names.items()}
        return Part(MMSEG, _SWIN, {"type": "SwinTransformer", **config})
    if isinstance(backbone, TimmPyramid) and "conv1.6.weight" in backbone.trunk.state_dict():
        blocks = [len(list(backbone.trunk.get_submodule(f"layer{k}").children())) for k in
                  (1, 2, 3, 4)]  # fmt: skip
        known = {"3-4-6-3": 50, "3-4-23-3": 101, "3-8-36-3": 152}
        if depth := known.get("-".join(map(str, blocks))):
            stride = {"output stride": backbone.strides[-1]}
            return Part(MMSEG, _RESNET_C, {"type": "ResNetV1c", "depth": depth, **stride})
    return None


def head_part(network: Segmenter) -> Part | None:
    """What the head is there; None where it is nothing."""
    head = cast(Any, network.head)
    common = {"num_classes": network.num_classes}
    if isinstance(head, DeepLabV2Head):
        dilations = [cast(Any, layer).dilation[0] for layer in head.classifiers]
        return Part(DAFORMER, _DEEPLAB_V2, {"type": "DLV2Head", "dilations": dilations, **common})
    kinds: tuple[tuple[type, str, Rules, str], ...] = (
        (UPerHead, MMSEG, _UPERNET, "UPerHead"),
        (DAFormerHead, DAFORMER, _DAFORMER, "DAFormerHead"),
        (SegFormerHead, *((NVIDIA, _NVIDIA) if getattr(head, "is_linear", True) else
                          (MMSEG, _SEGFORMER)), "SegformerHead"),
    )  # fmt: skip
    for kind, code, rules, name in kinds:
        if isinstance(head, kind):
            channels = cast(Any, head).classifier.in_channels
            return Part(code, rules, {"type": name, "channels": channels,
                                      **common})  # fmt: skip
    return None


def parts_of(network: Any) -> tuple[Part, Part]:
    """Backbone and head there.

    Raises:
        ConfigError: there are none; says which there are.
    """
    head = head_part(network) if type(network) is Segmenter else None
    is_nvidia = head is not None and head.code != MMSEG
    backbone = None if head is None else backbone_part(network, is_nvidia=is_nvidia)
    if head is None or backbone is None:
        inside = (type(getattr(network, part, None)).__name__ for part in ("backbone", "head"))
        raise ConfigError(
            f"to=mmseg takes MiT, Swin and ResNet-C with the heads segformer, upernet, daformer "
            f"and deeplabv2, got a {type(network).__name__} of {' and '.join(inside)}, which has "
            "no names there"
        )
    return backbone, head


def tensors_of(network: Segmenter) -> dict[str, Tensor]:
    """All tensors of a network of ours under names that mmsegmentation or the like reads.

    Raises:
        ConfigError: see :func:`parts_of`; or what reads such names here finds other tensors there,
            each of which is compared bit by bit.
    """
    backbone, head = parts_of(network)
    ours = {key: tensor for key, tensor in network.state_dict().items() if
            not key.startswith("aux_head.")}  # fmt: skip
    theirs = {name: _as_theirs(name, tensor) for name, tensor in
              to_theirs(ours, (*backbone.rules, *head.rules)).items()}  # fmt: skip
    back = segmenter_names(theirs)
    wrong = [key for key in ours.keys() | back.keys() if not _is_same(ours.get(key), back.get(key))]
    if wrong:
        raise ConfigError(
            f"{len(wrong)} tensors would not come back from mmsegmentation's names as they are, "
            f"such as {min(wrong)}; nothing was written"
        )
    return theirs


def write(network: Segmenter, labels: LabelSpace, file: Any) -> None:
    """Write weights, classes and colours into an open file, as mmsegmentation saves them."""
    classes, palette = list(labels.classes), [list(colour) for colour in labels.palette]
    meta = {
        "CLASSES": classes, "PALETTE": palette,  # of mmsegmentation 0.x
        "dataset_meta": {"classes": classes, "palette": palette},  # of 1.x
    }  # fmt: skip
    torch.save({"state_dict": tensors_of(network), "meta": meta}, file)


def classes_in(path: Path) -> tuple[list[str], list[Any] | None] | None:
    """Names and colours that a file of mmsegmentation keeps beside its tensors, if it does."""
    if path.suffix == ".safetensors":
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return None
    newer = meta.get("dataset_meta")
    found = newer if isinstance(newer, dict) else {k.lower(): v for k, v in meta.items()}
    names, palette = found.get("classes"), found.get("palette")
    if not isinstance(names, list | tuple):
        return None
    colours = [list(c) for c in palette] if isinstance(palette, list | tuple) else None
    return [str(name) for name in names], colours


def _as_theirs(name: str, tensor: Tensor) -> Tensor:
    """A tensor of theirs in its shape and order there."""
    if ".downsample." in name and name.startswith("backbone.stages."):
        # Four neighbours: timm stacks them as (x, y, C), mmseg as (C, y, x).
        return tensor.reshape(*tensor.shape[:-1], 2, 2, -1).transpose(-3, -1).flatten(-3)
    if ".ffn.layers." in name and name.startswith("backbone.layers.") and tensor.ndim == 2:
        return tensor[..., None, None]  # a linear layer is a 1x1 convolution
    if name == "decode_head.fusion_conv.conv.weight":
        return level_blocks_reversed(tensor)
    return tensor


def _is_same(ours: Tensor | None, back: Tensor | None) -> bool:
    return ours is not None and back is not None and torch.equal(ours, back)
