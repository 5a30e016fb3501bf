"""Names of weights in other projects' files, translated into those of this library.

Every function takes named tensors and returns new ones. A tensor that it does not know keeps its
name, so that whoever compares names afterwards can report it.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

NAMINGS = {
    "sfseg": r"^network\.|^backbone\.trunk\.",
    "DAFormer": r"^model\.(backbone|decode_head)\.",
    "mmseg": r"^(backbone|decode_head)\.|\.w_msa\.|^layers\.\d+\.1\.\d+\.attn\.attn\.",
    "NVIDIA": r"^(patch_embed|block)\d\.",
    "timm": r"^(patch_embed|layers|layer\d|stages|blocks|stem|conv1|features)[._]",
}
"""What gives a naming away in one of its keys; the first that is found decides."""

_WRAPPERS = {"module.": "module.", "model.": "model.backbone.", "network.": "network.backbone."}


def naming_of(tensors: Tensors) -> str | None:
    """The project whose names a file has, a key of :data:`NAMINGS`, or None."""
    for naming, sign in NAMINGS.items():
        if any(re.search(sign, key) for key in tensors):
            return naming
    return None


def below(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, without it; all if there are none."""
    part = {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }
    return part or dict(tensors)


def unwrapped(tensors: Tensors) -> dict[str, Tensor]:
    """One model, without the names of what holds it and without what lies beside it.

    ``module.`` comes from parallel training, ``model.`` from the DAFormer family, which keeps
    averaged copies beside it, ``network.`` from a run of this library.
    """
    for prefix, sign in _WRAPPERS.items():
        if any(key.startswith(sign) for key in tensors):
            tensors = below(tensors, prefix)
    return dict(tensors)


def renamed(tensors: Tensors, rules: Rules) -> dict[str, Tensor]:
    """All rules, patterns and their replacements, applied to each name in turn."""

    def rename(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {rename(key): tensor for key, tensor in tensors.items()}


def backbone_names(tensors: Tensors) -> dict[str, Tensor]:
    """A backbone with mmseg's names, under ours; any other stays as it is."""
    if any(".w_msa." in key for key in tensors):
        return swin_from_mmseg(tensors)
    if any(".attn.attn." in key for key in tensors):
        return mit_from_mmseg(tensors)
    if {"stem.7.weight", "layer1.0.conv1.weight"} <= tensors.keys():
        return renamed(tensors, _RESNET_C)
    return dict(tensors)


def segmenter_names(tensors: Tensors) -> dict[str, Tensor]:
    """Backbone and head with mmseg's names, under ours; a segmenter of ours stays as it is."""
    if any(key.startswith("backbone.interactions.") for key in tensors):
        return prompted_from_uniuvpt(tensors)
    if any(re.match(_NUMBERED_HEAD, key) for key in tensors):
        return many_heads_from_uniuvpt(tensors)
    inside = {key: tensors[key] for key in tensors if key.startswith("backbone.")}
    rest = {key: tensors[key] for key in tensors if key not in inside}
    backbone = backbone_names(below(inside, "backbone."))
    return {f"backbone.{key}": tensor for key, tensor in backbone.items()} | head_names(rest)


def head_names(tensors: Tensors) -> dict[str, Tensor]:
    """A ``decode_head`` of another project's, under our names.

    HRDA's holds two: the head, and that of its scale attention. One of ours stays as it is.
    """
    if not any(key.startswith("decode_head.") for key in tensors):
        return dict(tensors)
    if any(key.startswith("decode_head.head.") for key in tensors):
        attention = {key: tensors[key] for key in tensors if key.startswith(_ATTENTION)}
        rest = {key: tensors[key] for key in tensors if key not in attention}
        parts = ((rest, "decode_head.head.", "head."), (attention, _ATTENTION, "attention_head."))
        return {
            re.sub(r"^head\.", ours, key): tensor
            for part, theirs, ours in parts
            for key, tensor in head_names(renamed(part, ((theirs, "decode_head."),))).items()
        }
    for sign, named in _HEADS.items():
        if any(key.startswith(sign) for key in tensors):
            return named(tensors)
    if "decode_head.aspp_modules.0.conv.bias" in tensors:  # mmseg's ASPP has no bias
        return deeplabv2_head(tensors)
    return daformer_head(tensors)


def prompted_from_uniuvpt(tensors: Tensors) -> dict[str, Tensor]:
    """A segmenter of Uni-UVPT's code, with a ``PromptedBackbone`` of the variant ``release``."""
    adapter = {key: tensor for key, tensor in tensors.items() if re.search(_UNIUVPT[0], key)}
    plain = segmenter_names({key: tensors[key] for key in tensors if key not in adapter})
    inner = renamed(plain, ((r"^backbone\.", "backbone.backbone."),))
    return renamed(adapter, _UNIUVPT[1]) | inner


def many_heads_from_uniuvpt(tensors: Tensors) -> dict[str, Tensor]:
    """A :class:`sfseg.networks.heads.multi_head.LeaveOneOutSegmenter` of Uni-UVPT's code.

    The last of its numbered heads is the global one. ``decode_head`` is the same head once more,
    or what it was before: it keeps its foreign name.
    """
    heads: dict[int, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if match := re.match(_NUMBERED_HEAD, key):
            heads.setdefault(int(match[1]), {})[f"decode_head.{key[match.end() :]}"] = tensor
        else:
            rest[key] = tensor
    double = {key: rest.pop(key) for key in tensors if key.startswith("decode_head.")}
    ours = segmenter_names(rest | heads.pop(max(heads)))
    for number, head in heads.items():
        ours |= renamed(segmenter_names(head), ((r"^head\.", f"leave_one_out.{number}."),))
    return ours | double


def swin_from_mmseg(tensors: Tensors) -> dict[str, Tensor]:
    """Swin of mmseg as a :class:`sfseg.networks.backbones.pyramid.TimmPyramid`."""
    ordered = {
        key: _as_timm_merges(tensor) if ".downsample." in key else tensor
        for key, tensor in tensors.items()
    }
    return renamed(ordered, _SWIN)


def mit_from_mmseg(tensors: Tensors) -> dict[str, Tensor]:
    """MiT as mmseg writes it, under the names of the authors' files."""
    split: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if ".attn.attn.in_proj_" in key:
            size = tensor.shape[0] // 3
            split[key.replace("attn.in_proj_", "q.")] = tensor[:size]
            split[key.replace("attn.in_proj_", "kv.")] = tensor[size:]
        elif re.search(r"\.ffn\.layers\.[04]\.weight$", key):
            split[key] = tensor.flatten(1)  # a 1x1 convolution is a linear layer
        else:
            split[key] = tensor
    return renamed(split, _MIT)


def daformer_head(tensors: Tensors) -> dict[str, Tensor]:
    """DAFormer's ``decode_head`` as :class:`sfseg.networks.heads.daformer.DAFormerHead`."""
    return renamed(tensors, _DAFORMER)


def segformer_head(tensors: Tensors) -> dict[str, Tensor]:
    """NVIDIA's ``decode_head`` as :class:`sfseg.networks.heads.segformer.SegFormerHead`."""
    return renamed(tensors, _SEGFORMER)


def segformer_head_of_mmseg(tensors: Tensors) -> dict[str, Tensor]:
    """The head that mmseg calls SegformerHead, as ours with ``is_linear`` false.

    It normalises each level, and stacks them finest first.
    """
    name = "decode_head.fusion_conv.conv.weight"
    ordered = {
        key: level_blocks_reversed(tensor) if key == name else tensor
        for key, tensor in tensors.items()
    }
    return renamed(ordered, _SEGFORMER_OF_MMSEG)


def level_blocks_reversed(tensor: Tensor) -> Tensor:
    """A convolution of four stacked levels (C, 4 C, 1, 1), for them in the reverse order."""
    return torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1) if tensor.ndim > 1 else tensor


def upernet_head(tensors: Tensors) -> dict[str, Tensor]:
    """The ``UPerHead`` of mmseg as :class:`sfseg.networks.heads.upernet.UPerHead`."""
    return renamed(tensors, _UPERNET)


def deeplabv2_head(tensors: Tensors) -> dict[str, Tensor]:
    """DAFormer's ``DLV2Head`` as :class:`sfseg.networks.heads.deeplab.DeepLabV2Head`."""
    return renamed(tensors, _DEEPLAB_V2)


def _as_timm_merges(tensor: Tensor) -> Tensor:
    """Four neighbours in timm's order: mmseg unfolds them as (C, y, x), timm as (x, y, C)."""
    return tensor.reshape(*tensor.shape[:-1], -1, 2, 2).transpose(-3, -1).flatten(-3)


def _counted_from_one(name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: name.format(int(match[1]) + 1)


_ATTENTION = "decode_head.scale_attention."
_NUMBERED_HEAD = r"decode_head_aug(\d+)\."
_SWIN: Rules = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^stages\.(\d+)\.blocks\.", r"layers.\1.blocks."),
    # mmseg halves at the end of a stage, timm at the start of the next one.
    (r"^stages\.(\d+)\.downsample\.", _counted_from_one("layers.{}.downsample.")),
    (r"^(patch_embed|layers)\.", r"trunk.\1."),
    (r"^norm(\d)\.", r"norms.\1."),
)
_RESNET_C: Rules = (  # "V1c", with three convolutions in place of the first
    (r"^stem\.([01346])\.", r"trunk.conv1.\1."),
    (r"^stem\.7\.", "trunk.bn1."),
    (r"^layer(\d)\.", r"trunk.layer\1."),
)
_MIT: Rules = (
    (r"^layers\.(\d+)\.0\.projection\.", _counted_from_one("patch_embed{}.proj.")),
    (r"^layers\.(\d+)\.0\.norm\.", _counted_from_one("patch_embed{}.norm.")),
    (r"^layers\.(\d+)\.1\.", _counted_from_one("block{}.")),
    (r"^layers\.(\d+)\.2\.", _counted_from_one("norm{}.")),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.dwconv.dwconv."),
    (r"\.ffn\.layers\.4\.", ".mlp.fc2."),
)
_CONV_BN: Rules = (
    (r"^decode_head\.conv_seg\.", "head.classifier."),
    (r"^(head\..*)\bconv\.", r"\g<1>0."),
    (r"^(head\..*)\bbn\.", r"\g<1>1."),
)
_DAFORMER: Rules = (
    (r"^decode_head\.embed_layers\.(\d+)\.proj\.", r"head.embeddings.\1."),
    (r"^decode_head\.fuse_layer\.aspp_modules\.", "head.branches."),
    (r"^decode_head\.fuse_layer\.bottleneck\.", "head.bottleneck."),
    (r"^decode_head\.fuse_layer\.(conv|bn)\.", r"head.fusion.\1."),  # of scale attention
    (r"^(head\..*)\bdepthwise_conv\.", r"\g<1>0."),
    (r"^(head\..*)\bpointwise_conv\.", r"\g<1>1."),
    *_CONV_BN,
)
_DEEPLAB_V2: Rules = ((r"^decode_head\.aspp_modules\.(\d+)\.conv\.", r"head.classifiers.\1."),)
_SEGFORMER: Rules = (
    (r"^decode_head\.linear_c(\d)\.proj\.", lambda m: f"head.embeddings.{int(m[1]) - 1}."),
    (r"^decode_head\.linear_fuse\.conv\.", "head.fuse.0."),
    (r"^decode_head\.linear_fuse\.bn\.", "head.fuse.1."),
    # Its base class has a conv_seg as well, which NVIDIA's code never calls.
    (r"^decode_head\.linear_pred\.", "head.classifier."),
)
_SEGFORMER_OF_MMSEG: Rules = (
    (r"^decode_head\.convs\.", "head.embeddings."),
    (r"^decode_head\.fusion_conv\.", "head.fuse."),
    *_CONV_BN,
)
_UPERNET: Rules = (
    (r"^decode_head\.bottleneck\.", "head.bottleneck."),
    (r"^decode_head\.lateral_convs\.", "head.laterals."),
    (r"^decode_head\.fpn_convs\.", "head.smooths."),
    (r"^decode_head\.fpn_bottleneck\.", "head.fuse."),
    (r"^decode_head\.psp_modules\.(\d+)\.1\.", r"head.contexts.\1.CONV."),
    *_CONV_BN,
    (r"\.CONV\.", ".conv."),  # which stays
)
_HEADS = {
    "decode_head.linear_fuse.": segformer_head,
    "decode_head.fusion_conv.": segformer_head_of_mmseg,
    "decode_head.psp_modules.": upernet_head,
}
"""Beginnings of names that a head alone has, and how it is read."""
_UNIUVPT: tuple[str, Rules] = (
    r"^weight$|^backbone\.(level_embed$|spm\.|interactions\.)",
    (
        (r"^weight$", "backbone.adapter.mixing"),
        (r"^backbone\.level_embed$", "backbone.adapter.generator.level_embedding"),
        (r"^backbone\.interactions\.", "backbone.adapter.interactors."),
        (r"^backbone\.spm\.", "backbone.adapter.generator."),
        (r"\.generator\.stem\.", ".generator.stages.0."),
        (r"\.generator\.conv4\.", ".generator.idle."),  # which their code never uses
        (r"\.generator\.conv(\d)\.", lambda m: f".generator.stages.{int(m[1]) - 1}."),
        (r"\.generator\.fc(\d)\.", lambda m: f".generator.projections.{int(m[1]) - 1}."),
        (r"\.feat_norm\.", ".feature_norm."),
        (r"\.ffn_norm\.", ".mlp_norm."),
        (r"\.attn\.sampling_offsets\.", ".attention.offsets."),
        (r"\.attn\.attention_weights\.", ".attention.scores."),
        (r"\.attn\.(value|output)_proj\.", r".attention.\1."),
        (r"\.ffn\.fc1\.", ".mlp.contract."),
        (r"\.ffn\.dwconv\.dwconv\.", ".mlp.neighbours."),
        (r"\.ffn\.fc2\.", ".mlp.expand."),
        (r"\.up_layer(\d)\.", lambda m: f".halvings.{int(m[1]) - 1}."),
    ),
)
