"""Patches of predictions, the certain and the others (SFDA, Liu et al., CVPR 2021)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Ranked(NamedTuple):
    """Patches of a batch, those of each position halved by entropy; P = positions * B / 2.

    easy: probabilities of the certain halves.
    hard: of the others.
    position: of either, in [0, parts^2), rows first.
    """

    easy: Float[Tensor, "P K h w"]
    hard: Float[Tensor, "P K h w"]
    position: Float[Tensor, " P"]


def split(maps: Float[Tensor, "B K H W"], parts: int) -> Float[Tensor, "parts*parts B K h w"]:
    """Patches of equal size by position; what is left over to the right and below is cut off.

    Raises:
        ValueError: fewer parts than 1, or more than the map has rows or columns.
    """
    height, width = maps.shape[-2:]
    if not 1 <= parts <= min(height, width):
        raise ValueError(
            f"patches must be in [1, {min(height, width)}] for maps of {height}x{width}, "
            f"got {parts}"
        )
    h, w = height // parts, width // parts
    cut = maps[..., : parts * h, : parts * w]
    grid = cut.reshape(*maps.shape[:2], parts, h, parts, w)
    return grid.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)


def patch_entropy(probability: Float[Tensor, "*b K h w"]) -> Float[Tensor, "*b"]:
    """Mean entropy of the pixels of each patch, natural logarithm: equation (13)."""
    # entr is 0 at 0.
    entropy: Tensor = torch.special.entr(probability).sum(dim=-3)
    return entropy.mean(dim=(-2, -1))


def rank(probability: Float[Tensor, "B K H W"], parts: int) -> Ranked:
    """Halve the patches of each position over the batch: equation (14).

    Raises:
        ValueError: an odd batch, or see :func:`split`.
    """
    images = len(probability)
    if images < 2 or images % 2:
        raise ValueError(
            f"the batch must have an even number of images, half of whose patches are easy, got "
            f"{images}; set data.adaptation.batch_size, or method.ipsm=false"
        )
    patches = split(probability, parts)  # (positions, B, K, h, w)
    order = patch_entropy(patches.detach()).argsort(dim=1, stable=True)
    position = torch.arange(parts * parts, device=probability.device)
    easy, hard = (
        patches[position[:, None], chosen].flatten(0, 1)
        for chosen in (order[:, : images // 2], order[:, images // 2 :])
    )
    return Ranked(easy, hard, position.repeat_interleave(images // 2))
