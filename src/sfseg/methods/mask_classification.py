"""What methods share that train a mask head by its own loss: classes and masks of queries."""

from typing import cast

import torch
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.heads.mask2former.criterion import Sums
from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.heads.mask2former.mask_decoder import Prediction
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.padding import valid_pixels
from sfseg.types import IGNORE, Batch


def has_mask_head(network: nn.Module) -> bool:
    """Whether a network's head has a loss of its own, on masks."""
    return isinstance(getattr(network, "head", None), Mask2FormerHead)


def require_mask_head(network: nn.Module, method: str) -> Mask2FormerHead:
    """The head, where it predicts masks.

    Raises:
        ConfigError: names the method and the way out.
    """
    if not has_mask_head(network):
        raise ConfigError(
            f"the head must predict masks for {method}, got "
            f"{type(getattr(network, 'head', network)).__name__}; set backbone/head=mask2former"
        )
    return cast(Mask2FormerHead, network.head)


def mask_sums(network: nn.Module, images: Batch, label: Tensor, view: Tensor | None = None) -> Sums:
    """Losses of a mask head on images of one domain, summed; see :class:`MaskCriterion`.

    Args:
        network: a :class:`Segmenter` with a mask head.
        images: as they are served.
        label: (B, H, W) class ids.
        view: what is shown of them instead, in [0, 1]; None: as they are.
    """
    segmenter, valid = cast(Segmenter, network), valid_pixels(images)
    with statistics_of_pictures(segmenter, valid):
        predictions = cast(
            list[Prediction], segmenter(images["image"] if view is None else view, masks=True)
        )
    padded = segmenter.padded(label, value=IGNORE)
    shown = valid
    if padded.shape != label.shape or valid is not None:
        own = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
        shown = segmenter.padded(own)
    return cast(Mask2FormerHead, segmenter.head).criterion.sums(predictions, padded, shown)
