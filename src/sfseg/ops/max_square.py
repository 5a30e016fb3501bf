"""Maximum squares loss (Chen, Xue and Cai, ICCV 2019, arXiv:1909.13589)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfseg.checks import require_options, require_shares
from sfseg.types import IGNORE

Norm = Literal["code", "paper", "sfda"]
"""The factor before the mean over pixels of sum_c p_c^2.

1 / 2C in the authors' code; 1 / 2 in their paper; 1 in eq. (2) of SFDA (Liu et al., CVPR 2021).
"""


def max_square(logits: Float[Tensor, "B K H W"], *, norm: Norm = "code") -> Float[Tensor, ""]:
    """Minus the mean over pixels of the sum of squared probabilities, times a factor.

    The gradient with respect to a probability grows in proportion to it, where that of entropy
    is dominated by pixels that are nearly certain.

    Args:
        logits: unnormalised scores.
        norm: the factor; with 19 classes ``paper`` is 19 and ``sfda`` 38 times ``code``.

    Raises:
        ValueError: an unknown norm.
    """
    require_options(norm=(norm, Norm))
    squares = logits.float().softmax(dim=1).square().sum(dim=1)  # (B, H, W)
    return -squares.mean() / _divisor(norm, logits.shape[1], halved=norm != "sfda")


def image_weighted_max_square(
    logits: Float[Tensor, "B K H W"], *, ratio: float = 0.2, norm: Norm = "code"
) -> Float[Tensor, ""]:
    """The loss with weights that favour classes which an image shows little of.

    The sum over pixels of every image is weighted by :func:`image_weights` and averaged over
    images, so that no image's weight depends on the others.

    Args:
        logits: unnormalised scores.
        ratio: see :func:`image_weights`; with 0 ``paper`` and ``sfda`` are as unweighted.
        norm: as of :func:`max_square`, but without 1 / 2 for ``code``, as there.

    Raises:
        ValueError: an unknown norm, or a ratio outside [0, 1].
    """
    require_options(norm=(norm, Norm))
    probability = logits.float().softmax(dim=1)
    weights = image_weights(
        probability.argmax(dim=1), num_classes=logits.shape[1], ratio=ratio
    )  # (B, H, W)
    weighted = weights * probability.square().sum(dim=1)
    total = weighted.sum(dim=(1, 2)).mean()
    return -total / _divisor(norm, logits.shape[1], halved=norm == "paper")


def image_weights(
    prediction: Int[Tensor, "B H W"], *, num_classes: int, ratio: float
) -> Float[Tensor, "B H W"]:
    """1 / max(h_c^ratio n^(1 - ratio), 1) of a pixel of class c.

    h_c counts the class's pixels in the image, n all of the image's.

    Args:
        prediction: most probable classes.
        num_classes: number of classes.
        ratio: 0 weighs all pixels of an image alike, 1 all classes that it shows.

    Raises:
        ValueError: a ratio outside [0, 1].
    """
    require_shares(ratio=ratio)
    flat = prediction.flatten(1)  # (B, H * W)
    counts = flat.new_zeros(flat.shape[0], num_classes, dtype=torch.float32)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
    weights = (counts.pow(ratio) * flat.shape[1] ** (1 - ratio)).clamp_min(1).reciprocal()
    gathered: Tensor = weights.gather(1, flat)
    return gathered.view_as(prediction)


@torch.no_grad()
def guided_label(
    main: Float[Tensor, "B K H W"], aux: Float[Tensor, "B K H W"], *, delta: float
) -> Int[Tensor, "B H W"]:
    """Classes that an auxiliary head learns: those of the mean prediction of both heads.

    Args:
        main: logits of the head.
        aux: of the auxiliary head.
        delta: where neither is surer than that, the label is :data:`sfseg.types.IGNORE`.

    Raises:
        ValueError: delta outside [0, 1].
    """
    require_shares(delta=delta)
    first, second = (logits.float().softmax(dim=1) for logits in (main, aux))
    surer = first.amax(dim=1).maximum(second.amax(dim=1))
    return (first + second).argmax(dim=1).masked_fill(surer <= delta, IGNORE)


def _divisor(norm: Norm, num_classes: int, *, halved: bool) -> float:
    return (2 if halved else 1) * (num_classes if norm == "code" else 1)
