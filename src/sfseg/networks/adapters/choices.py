"""What methods build into a source model, or leave as it is, before it trains on the target."""

from typing import Any, Literal, get_args

from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks.adapters.prompt_adapter import PromptedBackbone
from sfseg.networks.segmenter import Segmenter

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
"""Normalisation layers; the last are batch and instance normalisation."""

Part = Literal["all", "backbone", "norms"]
"""What of a source model trains: all of it, its backbone, or as :func:`norms_only` says."""


def prompted(network: Segmenter, **options: Any) -> Segmenter:
    """Put a prompt adapter into the backbone; it and the head train, the backbone is frozen.

    Args:
        network: changed in place and returned.
        **options: of :class:`sfseg.networks.adapters.prompt_adapter.PromptAdapter`.

    Raises:
        ValueError: see :class:`sfseg.networks.adapters.prompt_adapter.PromptedBackbone`.
    """
    network.backbone = PromptedBackbone(network.backbone, **options)
    return network.freeze("backbone.backbone")


def heads_only(network: Segmenter) -> Segmenter:
    """Freeze the backbone, so that only heads train; changed in place and returned."""
    return network.freeze("backbone")


def norms_only(network: Segmenter) -> Segmenter:
    """Let only weights and biases of normalisation layers train; changed in place and returned.

    They do so also where ``backbone.batch_norm`` has frozen them. Modes are left alone: statistics
    of batch normalisation move as before.

    Raises:
        ConfigError: there are none.
    """
    network.requires_grad_(False)
    layers = [module for module in network.modules() if isinstance(module, NORMS)]
    for layer in layers:
        layer.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            "the network must have normalisation layers with weights to train, got none in "
            f"{type(network.backbone).__name__} and {type(network.head).__name__}; choose another "
            "backbone or backbone/head"
        )
    return network


def train_only(network: Segmenter, part: Part, *, levels: bool = False) -> Segmenter:
    """Freeze the rest; changed in place and returned.

    Args:
        network: a source model.
        part: ``backbone`` keeps heads as they are, statistics of their batch normalisation too.
        levels: whether the auxiliary head is used; it is frozen otherwise.

    Raises:
        ValueError: an unknown part.
        ConfigError: see :func:`norms_only`.
    """
    if part not in get_args(Part):
        raise ValueError(f"trainable must be one of {', '.join(get_args(Part))}, got {part!r}")
    if part == "norms":
        norms_only(network)
    if part == "backbone":
        network.freeze("head")
    if network.aux_head is not None and (part == "backbone" or not levels):
        network.freeze("aux_head")
    return network
