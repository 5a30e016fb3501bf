"""SegFormer of transformers: MiT with the head of linear layers."""

from typing import Any, cast

from torch import Tensor

from sfseg.conversion.architecture import Architecture, head_outputs, require_values, variant
from sfseg.conversion.naming import counted
from sfseg.networks.backbones.mit import VARIANTS, MixTransformer
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules

EPS = 1e-5
"""Of all its LayerNorms, whatever ``layer_norm_eps`` says; the authors' have 1e-6 in blocks."""
HEADS = (1, 2, 5, 8)
"""Attention heads of each stage, of every variant."""
FIXED = {
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "num_attention_heads": HEADS,
    "sr_ratios": (8, 4, 2, 1),
    "patch_sizes": (7, 3, 3, 3),
    "strides": (4, 2, 2, 2),
    "mlp_ratios": (4, 4, 4, 4),
    "hidden_act": "gelu",
    "reshape_last_stage": True,
}
"""What all variants have in common."""

_ENCODER = "segformer.encoder."
RULES: Rules = (
    (r"^backbone\.patch_embed(\d)\.proj\.", counted(f"{_ENCODER}patch_embeddings.#.proj.", -1)),
    (r"^backbone\.patch_embed(\d)\.norm\.",
     counted(f"{_ENCODER}patch_embeddings.#.layer_norm.", -1)),
    (r"^backbone\.norm(\d)\.", counted(f"{_ENCODER}layer_norm.#.", -1)),
    (r"^backbone\.block(\d)\.", counted(f"{_ENCODER}block.#.", -1)),
    (r"\.norm(\d)\.", r".layer_norm_\1."),
    (r"\.attn\.q\.", ".attention.self.query."),
    (r"\.attn\.kv\.", ".attention.self.{key,value}."),
    (r"\.attn\.sr\.", ".attention.self.sr."),
    (r"\.attn\.norm\.", ".attention.self.layer_norm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
    (r"^head\.embeddings\.(\d)\.", r"decode_head.linear_c.\1.proj."),
    (r"^head\.fuse\.0\.", "decode_head.linear_fuse."),
    (r"^head\.fuse\.1\.", "decode_head.batch_norm."),
    (r"^head\.classifier\.", "decode_head.classifier."),
)  # fmt: skip


def fits(network: Segmenter) -> bool:
    """Whether it is an MiT with SegFormer's own head."""
    is_linear = isinstance(network.head, SegFormerHead) and network.head.is_linear
    return isinstance(network.backbone, MixTransformer) and is_linear


def settings(config: Any) -> list[str]:
    """What builds it here.

    Raises:
        ConfigError: it is no MiT-B0 to B5.
    """
    require_values(config, FIXED, what="SegFormer")
    widths = tuple(config.hidden_sizes)
    known = {
        (tuple(width * heads for heads in HEADS), depths): name
        for name, (width, depths) in VARIANTS.items()
    }
    name = variant((widths, tuple(config.depths)), known, what="MiT (widths, blocks)")
    return [
        f"backbone={name}",
        "backbone/head=segformer",
        f"backbone.head.channels={config.decoder_hidden_size}",
        f"backbone.head.dropout={config.classifier_dropout_prob}",
        f"backbone.network.drop_path_rate={config.drop_path_rate}",
        f"+backbone.network.norm_eps={EPS}",
    ]


def configuration(network: Segmenter) -> dict[str, Any]:
    """The arguments of transformers' ``SegformerConfig``, but for the classes."""
    backbone = cast(MixTransformer, network.backbone)
    head = cast(SegFormerHead, network.head)
    return {
        **FIXED,
        "hidden_sizes": list(backbone.channels),
        "depths": [len(list(backbone.get_submodule(f"block{k}").children())) for k in (1, 2, 3, 4)],
        "decoder_hidden_size": head.classifier.in_channels,
        "classifier_dropout_prob": head.dropout.p,
    }


def their_outputs(model: Any, pixels: Tensor) -> list[Tensor]:
    """Logits (B, K, h, w) of the head's own size."""
    return [model(pixels).logits]


SEGFORMER = Architecture(
    name="SegformerForSemanticSegmentation",
    processor="SegformerImageProcessor",
    fits=fits,
    settings=settings,
    configuration=configuration,
    rules=RULES,
    without_use=r"^$",
    norm_eps=lambda network: EPS,
    outputs=head_outputs,
    their_outputs=their_outputs,
)
