"""UPerNet of transformers on a Swin or a ConvNeXt."""

from typing import Any, cast

from torch import Tensor

from sfseg.conversion import convnext, swin
from sfseg.conversion.architecture import Architecture, head_outputs, variant
from sfseg.networks.heads.upernet import UPerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.key_maps import Rules

BACKBONES: dict[tuple[Any, ...], Any] = {("swin",): swin, ("convnext",): convnext}

RULES: Rules = (
    *swin.rules("backbone."),
    *convnext.rules("backbone."),
    (r"^head\.contexts\.(\d)\.conv\.", r"decode_head.psp_modules.\1.1."),
    (r"^head\.bottleneck\.", "decode_head.bottleneck."),
    (r"^head\.laterals\.", "decode_head.lateral_convs."),
    (r"^head\.smooths\.", "decode_head.fpn_convs."),
    (r"^head\.fuse\.", "decode_head.fpn_bottleneck."),
    (r"^head\.classifier\.", "decode_head.classifier."),
    (r"^(decode_head\..*)\.0\.(weight)$", r"\1.conv.\2"),
    (r"^(decode_head\..*)\.1\.(\w+)$", r"\1.batch_norm.\2"),
)


def fits(network: Segmenter) -> bool:
    """Whether it is a Swin or a ConvNeXt with UPerNet's head."""
    is_known = swin.is_swin(network) or convnext.is_convnext(network)
    return is_known and isinstance(network.head, UPerHead)


def settings(config: Any) -> list[str]:
    """What builds it here.

    Raises:
        ConfigError: its backbone is neither, or none of ours.
    """
    own = config.backbone_config
    kind = variant((own.model_type,), BACKBONES, what="backbone of UPerNet")
    grids = ",".join(map(str, config.pool_scales))
    return [
        *kind.settings(own),
        "backbone/head=upernet",
        f"backbone.head.channels={config.hidden_size}",
        f"backbone.head.grids=[{grids}]",
    ]


def configuration(network: Segmenter) -> dict[str, Any]:
    """The arguments of transformers' ``UperNetConfig``, but for the classes."""
    head = cast(UPerHead, network.head)
    model_type = "swin" if swin.is_swin(network) else "convnext"
    kind = BACKBONES[model_type,]
    return {
        "backbone_config": {"model_type": model_type, **kind.configuration(network)},
        "hidden_size": head.classifier.in_channels,
        "pool_scales": [cast(Any, context).grid for context in head.contexts],
        "use_auxiliary_head": False,
    }


def their_outputs(model: Any, pixels: Tensor) -> list[Tensor]:
    """Logits (B, K, h, w) of the head's own size."""
    return [model.decode_head(model.backbone(pixels).feature_maps)]


UPERNET = Architecture(
    name="UperNetForSemanticSegmentation",
    processor="SegformerImageProcessor",
    fits=fits,
    settings=settings,
    configuration=configuration,
    rules=RULES,
    without_use=swin.without_use(r"backbone\.") + r"|^auxiliary_head\.",
    norm_eps=lambda network: swin.EPS if swin.is_swin(network) else convnext.EPS,
    outputs=head_outputs,
    their_outputs=their_outputs,
)
