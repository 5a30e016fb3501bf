"""How methods learn from networks of two resolutions, and from all others (HRDA, ECCV 2022)."""

from collections.abc import Callable
from typing import cast

from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from sfseg.networks.adapters.two_resolutions import Detail, TwoResolutions
from sfseg.networks.norm_of_pictures import statistics_of_pictures

Loss = Callable[..., Tensor]
"""Logits (B, K, H, W) and maps (B, ..., H, W) of the same size, or None, to a scalar."""


def seen_in_training(
    network: nn.Module, image: Shaped[Tensor, "B 3 H W"], valid: Bool[Tensor, "B H W"] | None
) -> tuple[Tensor, list[Tensor], Detail | None]:
    """Logits of images (B, K, H, W), the backbone's maps, and what a window of them shows.

    Args:
        network: a :class:`sfseg.networks.segmenter.Segmenter`; of one resolution it has no window.
        image: as the network takes it.
        valid: pixels that belong to pictures; None: all.
    """
    with statistics_of_pictures(network, valid):
        if isinstance(network, TwoResolutions):
            return cast(
                tuple[Tensor, list[Tensor], Detail | None], network(image, with_window=True)
            )
        return *network(image, with_maps=True), None


def with_detail(
    loss: Loss, logits: Tensor, detail: Detail | None, *maps: Shaped[Tensor, "B ..."] | None
) -> Tensor:
    """(1 - w) loss(logits) + w loss(detail), the latter of the window alone (equation 11).

    Args:
        loss: called with logits and maps.
        logits: (B, K, H, W) of the whole image.
        detail: of its window; None: the loss is that on the whole image.
        maps: what else the loss looks at, such as labels (B, H, W).
    """
    whole = loss(logits, *maps)
    if detail is None:
        return whole
    own = loss(detail.logits, *(None if part is None else detail.of(part) for part in maps))
    return (1 - detail.weight) * whole + detail.weight * own
