"""Swin of transformers as a pyramid of timm's, whose patches it merges in the same order."""

from typing import Any, cast

from torch import nn

from sfseg.conversion.architecture import require_values, variant
from sfseg.conversion.naming import counted
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules

EPS = 1e-5
WINDOW_7, WINDOW_12 = "patch4_window7_224", "patch4_window12_384"

SWINS: dict[tuple[Any, ...], tuple[str, str]] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24), 7): ("swin_t", f"swin_tiny_{WINDOW_7}"),
    (96, (2, 2, 18, 2), (3, 6, 12, 24), 7): ("swin_s", f"swin_small_{WINDOW_7}"),
    (128, (2, 2, 18, 2), (4, 8, 16, 32), 7): ("swin_b", f"swin_base_{WINDOW_7}"),
    (128, (2, 2, 18, 2), (4, 8, 16, 32), 12): ("swin_b", f"swin_base_{WINDOW_12}"),
    (192, (2, 2, 18, 2), (6, 12, 24, 48), 7): ("swin_b", f"swin_large_{WINDOW_7}"),
    (192, (2, 2, 18, 2), (6, 12, 24, 48), 12): ("swin_b", f"swin_large_{WINDOW_12}"),
}
"""Width, blocks, attention heads and window: a group of ``conf/backbone`` and a model of timm."""

FIXED = {
    "num_channels": 3, "patch_size": 4, "mlp_ratio": 4.0, "qkv_bias": True, "hidden_act": "gelu",
    "use_absolute_embeddings": False, "layer_norm_eps": EPS,
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def rules(prefix: str) -> Rules:
    """From our names to those of transformers' files.

    Args:
        prefix: of the backbone there.
    """
    return (
        (r"^backbone\.norms\.(\d)\.", counted(f"{prefix}hidden_states_norms.stage#.", 1)),
        (r"^backbone\.trunk\.patch_embed\.proj\.", f"{prefix}embeddings.patch_embeddings."
                                                   "projection."),
        (r"^backbone\.trunk\.patch_embed\.norm\.", f"{prefix}embeddings.norm."),
        # timm halves at the start of a stage, they at the end of the one before.
        (r"^backbone\.trunk\.layers\.(\d)\.downsample\.",
         counted(f"{prefix}encoder.layers.#.downsample.", -1)),
        (r"^backbone\.trunk\.layers\.", f"{prefix}encoder.layers."),
        (r"(\.layers\.\d\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
        (r"(\.layers\.\d\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
        (r"(\.layers\.\d\.blocks\.\d+)\.attn\.qkv\.", r"\1.attention.self.{query,key,value}."),
        (r"(\.layers\.\d\.blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
        (r"(\.layers\.\d\.blocks\.\d+)\.attn\.", r"\1.attention.self."),
        (r"(\.layers\.\d\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
        (r"(\.layers\.\d\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    )  # fmt: skip


def without_use(prefix: str) -> str:
    """Pattern of a norm of the whole model, which hands out maps alone, and of indices."""
    return rf"^{prefix}(swin\.)?layernorm\.|relative_position_index$"


def is_swin(network: Segmenter) -> bool:
    """Whether the backbone is a Swin with a norm on each map."""
    backbone = network.backbone
    return (
        isinstance(backbone, TimmPyramid)
        and backbone.is_staged
        and all(isinstance(norm, nn.LayerNorm) for norm in backbone.norms)
    )


def settings(config: Any) -> list[str]:
    """What builds a backbone of transformers' here.

    Raises:
        ConfigError: it is no Swin of this library.
    """
    require_values(config, FIXED | {"out_features": STAGES}, what="Swin")
    numbers = (
        config.embed_dim, tuple(config.depths), tuple(config.num_heads), config.window_size
    )  # fmt: skip
    group, name = variant(numbers, SWINS, what="Swin (width, blocks, heads, window)")
    return [
        f"backbone={group}",
        f"backbone.network.name={name}",
        f"backbone.network.drop_path_rate={config.drop_path_rate}",
    ]


def configuration(network: Segmenter) -> dict[str, Any]:
    """The arguments of transformers' ``SwinConfig``."""
    backbone = cast(TimmPyramid, network.backbone)
    layers = [list(layer.get_submodule("blocks").children()) for layer in
              backbone.trunk.get_submodule("layers").children()]  # fmt: skip
    attention = [cast(Any, blocks[0]).attn for blocks in layers]
    return {
        **FIXED,
        "embed_dim": backbone.channels[0],
        "depths": [len(blocks) for blocks in layers],
        "num_heads": [own.num_heads for own in attention],
        "window_size": attention[0].window_size[0],
        "out_features": STAGES,
    }
