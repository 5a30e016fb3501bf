"""ConvNeXt of transformers as a pyramid of timm's, with a norm on each map."""

from typing import Any, cast

from torch import nn

from sfseg.conversion.architecture import require_values, variant
from sfseg.conversion.naming import counted
from sfseg.conversion.swin import STAGES
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules

EPS = 1e-6
DEEP = (3, 3, 27, 3)

CONVNEXTS: dict[tuple[Any, ...], tuple[str, str]] = {
    ((96, 192, 384, 768), (3, 3, 9, 3)): ("convnext_tiny", "convnext_tiny"),
    ((96, 192, 384, 768), DEEP): ("convnext_tiny", "convnext_small"),
    ((128, 256, 512, 1024), DEEP): ("convnext_base", "convnext_base"),
    ((192, 384, 768, 1536), DEEP): ("convnext_base", "convnext_large"),
    ((256, 512, 1024, 2048), DEEP): ("convnext_base", "convnext_xlarge"),
}
"""Widths and blocks of the stages: a group of ``conf/backbone`` and a model of timm."""

FIXED = {"num_channels": 3, "patch_size": 4, "num_stages": 4, "hidden_act": "gelu"}


def rules(prefix: str) -> Rules:
    """From our names to those of transformers' files.

    Args:
        prefix: of the backbone there.
    """
    return (
        (r"^backbone\.norms\.(\d)\.", counted(f"{prefix}hidden_states_norms.stage#.", 1)),
        (r"^backbone\.trunk\.stem\.0\.", f"{prefix}embeddings.patch_embeddings."),
        (r"^backbone\.trunk\.stem\.1\.", f"{prefix}embeddings.layernorm."),
        (r"^backbone\.trunk\.stages\.", f"{prefix}encoder.stages."),
        (r"(\.stages\.\d)\.downsample\.", r"\1.downsampling_layer."),
        (r"(\.stages\.\d)\.blocks\.", r"\1.layers."),
        (r"(\.stages\.\d\.layers\.\d+)\.gamma$", r"\1.layer_scale_parameter"),
        (r"(\.stages\.\d\.layers\.\d+)\.conv_dw\.", r"\1.dwconv."),
        (r"(\.stages\.\d\.layers\.\d+)\.norm\.", r"\1.layernorm."),
        (r"(\.stages\.\d\.layers\.\d+)\.mlp\.fc(\d)\.", r"\1.pwconv\2."),
    )


def is_convnext(network: Segmenter) -> bool:
    """Whether the backbone is a ConvNeXt of the first kind with a norm on each map."""
    backbone = network.backbone
    if not isinstance(backbone, TimmPyramid):
        return False
    names = {name.split(".")[-1] for name in backbone.trunk.state_dict()}
    return (
        type(backbone.trunk).__name__ == "ConvNeXt"
        and "gamma" in names
        and all(isinstance(norm, nn.LayerNorm) for norm in backbone.norms)
    )


def settings(config: Any) -> list[str]:
    """What builds a backbone of transformers' here.

    Raises:
        ConfigError: it is no ConvNeXt of this library.
    """
    require_values(config, FIXED | {"out_features": STAGES}, what="ConvNeXt")
    numbers = (tuple(config.hidden_sizes), tuple(config.depths))
    group, name = variant(numbers, CONVNEXTS, what="ConvNeXt (widths, blocks)")
    return [
        f"backbone={group}",
        f"backbone.network.name={name}",
        "backbone.network.output_norms=true",
        f"+backbone.network.norm_eps={EPS}",
        f"backbone.network.drop_path_rate={config.drop_path_rate}",
    ]


def configuration(network: Segmenter) -> dict[str, Any]:
    """The arguments of transformers' ``ConvNextConfig``."""
    backbone = cast(TimmPyramid, network.backbone)
    stages = backbone.trunk.get_submodule("stages").children()
    return {
        **FIXED,
        "hidden_sizes": list(backbone.channels),
        "depths": [len(list(stage.get_submodule("blocks").children())) for stage in stages],
        "out_features": STAGES,
    }
