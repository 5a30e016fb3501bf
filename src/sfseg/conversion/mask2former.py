"""Mask2Former of transformers on a Swin."""

import re
from typing import Any, cast

import torch
from torch import Tensor

from sfseg.conversion import swin
from sfseg.conversion.architecture import Architecture, require_values
from sfseg.errors import ConfigError
from sfseg.networks.heads.mask2former.criterion import MaskCriterion
from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.heads.mask2former.mask_decoder import LinearClasses
from sfseg.networks.heads.mask2former.pixel_decoder import DeformableSelfAttention
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules

FIXED = {
    "activation_function": "relu", "pre_norm": False, "enforce_input_projection": False,
    "common_stride": 4, "feature_strides": (4, 8, 16, 32),
}  # fmt: skip
CRITERION = {
    "no_object": "no_object_weight",
    "class_weight": "class_weight",
    "mask_weight": "mask_weight",
    "dice_weight": "dice_weight",
    "oversample": "oversample_ratio",
    "uncertain_share": "importance_sample_ratio",
}
"""Settings of the loss, and what transformers calls them."""
POINTS = 4  # samples of each query, head and map, as in transformers

_PIXELS = "model.pixel_level_module.decoder."
_MASKS = "model.transformer_module."


def _embedder(match: re.Match[str]) -> str:
    return f"{_MASKS}decoder.mask_predictor.mask_embedder.{int(match[1]) // 2}.0."


RULES: Rules = (
    *swin.rules("model.pixel_level_module.encoder."),
    (r"^head\.pixel_decoder\.levels$", f"{_PIXELS}level_embed"),
    (r"^head\.pixel_decoder\.projections\.", f"{_PIXELS}input_projections."),
    (r"^head\.pixel_decoder\.lateral\.", f"{_PIXELS}adapter_1."),
    (r"^head\.pixel_decoder\.smooth\.", f"{_PIXELS}layer_1."),
    (r"^head\.pixel_decoder\.mask_features\.", f"{_PIXELS}mask_projection."),
    (r"^head\.pixel_decoder\.layers\.", f"{_PIXELS}encoder.layers."),
    (r"\.norm_attention\.", ".self_attn_layer_norm."),
    (r"\.attention\.offsets\.", ".self_attn.sampling_offsets."),
    (r"\.attention\.weights\.", ".self_attn.attention_weights."),
    (r"\.attention\.(value|output)\.(weight|bias)$", r".self_attn.\1_proj.\2"),
    (r"^head\.mask_decoder\.query$", f"{_MASKS}queries_features.weight"),
    (r"^head\.mask_decoder\.query_position$", f"{_MASKS}queries_embedder.weight"),
    (r"^head\.mask_decoder\.levels$", f"{_MASKS}level_embed.weight"),
    (r"^head\.mask_decoder\.norm\.", f"{_MASKS}decoder.layernorm."),
    (r"^head\.mask_decoder\.mask_embedding\.(\d)\.", _embedder),
    (r"^head\.mask_decoder\.class_head\.classes\.", "class_predictor."),
    (r"^head\.mask_decoder\.layers\.", f"{_MASKS}decoder.layers."),
    (r"\.cross\.", ".cross_attn."),
    (r"\.norm_cross\.", ".cross_attn_layer_norm."),
    (r"\.own\.in_proj_(\w+)$", r".self_attn.{q_proj,k_proj,v_proj}.\1"),
    (r"\.own\.out_proj\.", ".self_attn.out_proj."),
    (r"\.norm_own\.", ".self_attn_layer_norm."),
    (r"(\.layers\.\d+)\.mlp\.0\.", r"\1.fc1."),
    (r"(\.layers\.\d+)\.mlp\.2\.", r"\1.fc2."),
    (r"\.norm_mlp\.", ".final_layer_norm."),
)


def fits(network: Segmenter) -> bool:
    """Whether it is a Swin with Mask2Former's head.

    Raises:
        ConfigError: its classes are compared with texts.
    """
    head = network.head
    if not (swin.is_swin(network) and isinstance(head, Mask2FormerHead)):
        return False
    if not isinstance(head.mask_decoder.class_head, LinearClasses):
        raise ConfigError(
            "backbone/head/class_head must be linear for a network of transformers, got "
            f"{type(head.mask_decoder.class_head).__name__}, which Mask2Former has not there"
        )
    return True


def settings(config: Any) -> list[str]:
    """What builds it here.

    Raises:
        ConfigError: its backbone is no Swin, or a number is none of ours.
    """
    require_values(config.backbone_config, {"model_type": "swin"}, what="backbone of Mask2Former")
    width = config.hidden_dim
    same = {"feature_size": width, "mask_feature_size": width}
    require_values(config, FIXED | same, what="Mask2Former")
    usual = MaskCriterion()
    sizes = {
        "channels": width,
        "queries": config.num_queries,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers - 1,  # theirs counts the prediction before them
        "encoder_hidden": config.encoder_feedforward_dim,
        "decoder_hidden": config.dim_feedforward,
        "points": config.train_num_points,
    }
    return [
        *swin.settings(config.backbone_config),
        "backbone/head=mask2former",
        *(f"backbone.mask2former.{key}={value}" for key, value in sizes.items()),
        f"backbone.head.heads={config.num_attention_heads}",
        *(
            f"backbone.head.criterion.{ours}={getattr(config, theirs)}"
            for ours, theirs in CRITERION.items()
            if getattr(config, theirs) != getattr(usual, ours)
        ),
    ]


def configuration(network: Segmenter) -> dict[str, Any]:
    """The arguments of transformers' ``Mask2FormerConfig``, but for the classes.

    Raises:
        ConfigError: its attention looks at another number of places.
    """
    head = cast(Mask2FormerHead, network.head)
    encoder = list(head.pixel_decoder.layers)
    decoder = list(head.mask_decoder.layers)
    attention = cast(DeformableSelfAttention, encoder[0].attention)
    heads, _, points = attention.shape
    if points != POINTS:
        raise ConfigError(
            f"a Mask2Former of transformers looks at {POINTS} places of a map, this one at {points}"
        )
    width = head.mask_decoder.query.shape[1]
    criterion = head.criterion
    return {
        **FIXED,
        "backbone_config": {"model_type": "swin", **swin.configuration(network)},
        "feature_size": width,
        "mask_feature_size": width,
        "hidden_dim": width,
        "num_queries": head.mask_decoder.query.shape[0],
        "encoder_layers": len(encoder),
        "decoder_layers": len(decoder) + 1,
        "num_attention_heads": heads,
        "encoder_feedforward_dim": cast(Any, encoder[0]).mlp[0].out_features,
        "dim_feedforward": cast(Any, decoder[0]).mlp[0].out_features,
        "train_num_points": criterion.points,
        **{theirs: getattr(criterion, ours) for ours, theirs in CRITERION.items()},
    }


def outputs(network: Segmenter, pixels: Tensor) -> list[Tensor]:
    """Of the last layer, logits of classes (B, Q, K + 1) and of masks (B, Q, h, w)."""
    head = cast(Mask2FormerHead, network.head)
    return list(head.predictions(network.backbone(network.padded(pixels)))[-1])


def their_outputs(model: Any, pixels: Tensor) -> list[Tensor]:
    """The same of theirs."""
    said = model(pixels)
    return [said.class_queries_logits, said.masks_queries_logits]


def constants(config: Any) -> dict[str, Tensor]:
    """Weights of the classes in the loss, the last one of which is "nothing"."""
    weights = torch.ones(config.num_labels + 1)
    weights[-1] = config.no_object_weight
    return {"criterion.empty_weight": weights}


MASK2FORMER = Architecture(
    name="Mask2FormerForUniversalSegmentation",
    processor="Mask2FormerImageProcessor",
    fits=fits,
    settings=settings,
    configuration=configuration,
    rules=RULES,
    without_use=swin.without_use(r"model\.pixel_level_module\.encoder\.")
    + r"|^criterion\.empty_weight$",
    norm_eps=lambda network: swin.EPS,
    outputs=outputs,
    their_outputs=their_outputs,
    constants=constants,
)
