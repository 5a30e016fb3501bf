"""What methods share whose student learns images that are harder than its teacher's."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.masking import block_mask, strong_view

HIDDEN = 0.7
"""Share of the blocks of a masked image (MIC)."""


def require_one_head(network: nn.Module) -> None:
    """Refuse a second head, which would not train.

    Raises:
        ConfigError: with the way out.
    """
    if getattr(network, "aux_head", None) is not None:
        raise ConfigError(
            "backbone.aux must be null for a mean teacher, which trains one head; choose a "
            "backbone without an auxiliary head"
        )


def strong(
    image: Shaped[Tensor, "B 3 H W"],
    network: nn.Module,
    *,
    colour: float,
    valid: Bool[Tensor, "B H W"] | None,
) -> Float[Tensor, "B 3 H W"]:
    """Images in [0, 1] and the network's precision, in other colours and blurred.

    Args:
        image: RGB in [0, 255].
        network: a :class:`Segmenter`.
        colour: strength of :func:`sfseg.ops.masking.strong_view`; 0 leaves the images as they are.
        valid: pixels that belong to pictures; None: all.
    """
    view = image.float() / 255
    if colour:
        view = strong_view(view, strength=colour, valid=valid)
    return view.to(cast(Segmenter, network).mean.dtype)


def with_hidden_blocks(
    image: Float[Tensor, "B 3 H W"], network: nn.Module, *, block: int
) -> Float[Tensor, "B 3 H W"]:
    """Images with hidden blocks of the mean colour, which is 0 to the network (MIC, CVPR 2023).

    Args:
        image: RGB in [0, 1].
        network: a :class:`Segmenter`.
        block: side of a block in pixels.
    """
    visible = block_mask(image, ratio=HIDDEN, block=block)
    return torch.where(visible, image, cast(Segmenter, network).mean)
