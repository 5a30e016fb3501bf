"""Patches of predictions, the certain and the others (SFDA, Liu et al., CVPR 2021)."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PredictionMap = Literal["probabilities", "logits", "self_information"]


class Ranked(NamedTuple):
    """Patches of a batch, those of each position halved by entropy; P = positions * B / 2.

    easy: prediction maps of the certain halves.
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
            f"patches must be in [1, {min(height, width)}] for maps of {width}x{height}, "
            f"got {parts}"
        )
    h, w = height // parts, width // parts
    cut = maps[..., : parts * h, : parts * w]
    grid = cut.reshape(*maps.shape[:2], parts, h, parts, w)
    return grid.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)


def require_even(images: int) -> None:
    """Refuse a batch that cannot be halved.

    Raises:
        ValueError: no images, or an odd number.
    """
    if images < 2 or images % 2:
        raise ValueError(
            f"the batch must have an even number of images, half of whose patches are easy, got "
            f"{images}; set data.adaptation.batch_size, or method.ipsm=false"
        )


def patch_entropy(probability: Float[Tensor, "*b K h w"]) -> Float[Tensor, "*b"]:
    """Mean entropy of the pixels of each patch, natural logarithm: equation (13)."""
    # entr is 0 at 0.
    entropy: Tensor = torch.special.entr(probability).sum(dim=-3)
    return entropy.mean(dim=(-2, -1))


def prediction_map(
    logits: Float[Tensor, "B K H W"], kind: PredictionMap
) -> Float[Tensor, "B K H W"]:
    """What a discriminator is shown of a prediction.

    Args:
        logits: of any range.
        kind: ``probabilities`` in [0, 1] as in AdaptSegNet; ``logits``, the paper's i as printed;
            ``self_information``, -p ln p / ln K in [0, 1], as in ADVENT and in Pan et al.'s
            adaptation within a domain, which the paper builds on.
    """
    if kind == "logits":
        return logits
    probability = logits.softmax(dim=1)
    if kind == "probabilities":
        return probability
    # Not entr, whose gradient is infinite where a probability is 0.
    return -probability * logits.log_softmax(dim=1) / math.log(logits.shape[1])


def rank(
    logits: Float[Tensor, "B K H W"], parts: int, *, kind: PredictionMap = "probabilities"
) -> Ranked:
    """Halve the patches of each position over the batch: equation (14).

    Args:
        logits: of any range; entropies are of their softmax.
        parts: rows and columns.
        kind: what is cut into patches, see :func:`prediction_map`.

    Raises:
        ValueError: an odd batch, or see :func:`split`.
    """
    images = len(logits)
    require_even(images)
    patches = split(prediction_map(logits, kind), parts)  # (positions, B, K, h, w)
    probability = split(logits.detach().softmax(dim=1), parts)
    order = patch_entropy(probability).argsort(dim=1, stable=True)
    position = torch.arange(parts * parts, device=logits.device)
    easy, hard = (
        patches[position[:, None], chosen].flatten(0, 1)
        for chosen in (order[:, : images // 2], order[:, images // 2 :])
    )
    return Ranked(easy, hard, position.repeat_interleave(images // 2))
