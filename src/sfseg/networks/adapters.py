"""What methods build into a source model before it trains on the target."""

from typing import Any

from sfseg.networks.prompt_adapter import PromptedBackbone
from sfseg.networks.segmenter import Segmenter


def prompted(network: Segmenter, **options: Any) -> Segmenter:
    """Put a prompt adapter into the backbone; it and the head train, the backbone is frozen.

    Args:
        network: changed in place and returned.
        **options: of :class:`sfseg.networks.prompt_adapter.PromptAdapter`.

    Raises:
        ValueError: see :class:`sfseg.networks.prompt_adapter.PromptedBackbone`.
    """
    network.backbone = PromptedBackbone(network.backbone, **options)
    return network.freeze("backbone.backbone")


def heads_only(network: Segmenter) -> Segmenter:
    """Freeze the backbone, so that only heads train; changed in place and returned."""
    return network.freeze("backbone")
