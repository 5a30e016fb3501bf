"""How far views of the same images at several scales disagree (Uni-UVPT; before it, ADELE).

A pixel's predictions are compared with their mixture, a stage's features with their mean. The
functions with ``released`` in their name are the arithmetic of Uni-UVPT's published code where
it differs from the paper's formulas.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

FLOOR = 1e-3
"""The published code keeps mixtures and features within [FLOOR, 1 - FLOOR]."""

Normalize = Literal["elements", "positions"]


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of a view of an image, at least a pixel each."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(
    image: Float[Tensor, "B C h w"], size: tuple[int, int], *, align: bool
) -> Float[Tensor, "B C H W"]:
    """An image, or scores, of another size; ``align`` holds the corners' centres in place."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=align)


def log_mixture(
    logits: Sequence[Float[Tensor, "B K H W"]], weight_logits: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "B K H W"]:
    """Logarithm of the mean probability of m views; finite where probabilities underflow.

    Args:
        logits: scores of every view, resized to one size; log-probabilities are scores too.
        weight_logits: the views' weights before their softmax; None weighs all alike.
    """
    return _mixture([view.float().log_softmax(dim=1) for view in logits], weight_logits)


def released_mixture(
    logits: Sequence[Float[Tensor, "B K H W"]], weight_logits: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "B K H W"]:
    """Mean probability of m views within [FLOOR, 1 - FLOOR], as :func:`log_mixture` takes them.

    All pixels that are more certain have the same confidence, 1 - FLOOR.
    """
    return log_mixture(logits, weight_logits).exp().clamp(FLOOR, 1 - FLOOR)


def prediction_consistency(
    logits: Sequence[Float[Tensor, "B K H W"]], *, valid: Bool[Tensor, "B H W"] | None = None
) -> Float[Tensor, ""]:
    """Mean over m views and over pixels of KL(view || mean of the views), in nats.

    The divergence of Jensen and Shannon: 0 where views agree, at most ln m. (The paper prints a
    minus sign before it, with which agreement would be punished.)

    Args:
        logits: scores of every view, resized to one size.
        valid: pixels to count; None counts all. 0 when it leaves none.
    """
    divergence = cast(Tensor, _Divergence.apply(*(view.float() for view in logits)))  # (B, H, W)
    if valid is None:
        return divergence.mean()
    return (divergence * valid).sum() / valid.sum().clamp_min(1)


def released_prediction_consistency(
    logits: Sequence[Float[Tensor, "B K H W"]],
    *,
    weight_logits: Float[Tensor, " m"] | None = None,
    valid: Bool[Tensor, "B H W"] | None = None,
    min_confidence: float = 0.8,
    share_mask: bool = False,
) -> Float[Tensor, ""]:
    """Sum over views of KL(view || mixture), of confident pixels, divided by all pixels.

    The mixture is learnt and kept within [FLOOR, 1 - FLOOR]; so the value can be below 0, and
    is not 0 where certain views agree.

    Args:
        logits: scores of every view, resized to one size.
        weight_logits: the views' weights before their softmax; None weighs all alike.
        valid: pixels that have a label; others are not confident.
        min_confidence: largest probability in the mixture from which a pixel counts; 0 counts all.
        share_mask: count a position in all images of the batch if it is confident in one, as
            the published code does, where images then depend on their neighbours in the batch.
    """
    views = [view.float().log_softmax(dim=1) for view in logits]
    mixture = _mixture(views, weight_logits).clamp(math.log(FLOOR), math.log1p(-FLOOR))
    confident = mixture.detach().amax(dim=1).exp() >= min_confidence  # (B, H, W)
    if valid is not None:
        confident = confident & valid
    if share_mask:
        confident = confident.any(dim=0, keepdim=True)
    return (_sum_of_divergences(views, mixture) * confident).mean()


def feature_consistency(
    features: Sequence[Float[Tensor, "B C h w"]],
    *,
    reference: int,
    normalize: Normalize,
    align_corners: bool = False,
) -> Float[Tensor, ""]:
    """Mean over m views of ||F_k - mean of the views||^2, of one stage.

    Args:
        features: the stage's map in every view; sizes may differ.
        reference: position of the view whose size all are brought to, bilinear.
        normalize: ``elements`` divides by all B * C * h * w of them; ``positions`` by B * h * w,
            the squared norm of a position's vector, C times as large.
        align_corners: of the resizing.

    Raises:
        ValueError: another normalisation.
    """
    if normalize not in ("elements", "positions"):
        raise ValueError(f"normalize must be 'elements' or 'positions', got {normalize!r}")
    views = at_one_size(features, reference, align_corners=align_corners)
    squares = (views - views.mean(dim=0)).square()  # (m, B, C, h, w)
    return squares.mean() * (1 if normalize == "elements" else views.shape[2])


def released_feature_consistency(
    features: Sequence[Float[Tensor, "B C h w"]], *, reference: int
) -> Float[Tensor, ""]:
    """:func:`feature_consistency` per element of features clamped to [FLOOR, 1 - FLOOR].

    Meant for probabilities: of features, all that lies outside that range is lost, and where all
    views do, so is the gradient.
    """
    views = at_one_size(features, reference, align_corners=True).clamp(FLOOR, 1 - FLOOR)
    return (views - views.mean(dim=0)).square().mean()


def at_one_size(
    features: Sequence[Float[Tensor, "B C h w"]], reference: int, *, align_corners: bool = False
) -> Float[Tensor, "m B C H W"]:
    """A stage's map in every view, at the size of one of them; see :func:`feature_consistency`."""
    size = features[reference].shape[-2:]
    resized = [
        view.float()
        if view.shape[-2:] == size
        else F.interpolate(view.float(), size, mode="bilinear", align_corners=align_corners)
        for view in features
    ]
    return torch.stack(resized)


class _Divergence(torch.autograd.Function):
    """The divergence of Jensen and Shannon of every pixel, with its gradient in closed form.

    With d_k = log p_k - log mixture, the gradient in the logits of view k is
    p_k (d_k - sum p_k d_k) / m: what the mixture adds to it cancels. Halves the time of
    differentiating the definition.
    """

    @staticmethod
    def forward(ctx: Any, *logits: Tensor) -> Tensor:
        views = [view.log_softmax(dim=1) for view in logits]
        shares = [view.exp() for view in views]
        mean = torch.stack(shares).mean(dim=0)
        # Where all underflow, any finite logarithm does: it is multiplied by their 0.
        mixture = mean.clamp_min_(torch.finfo(mean.dtype).tiny).log_()
        divergence = torch.zeros_like(mixture[:, 0])
        for view, share in zip(views, shares, strict=True):
            distance = view.sub_(mixture)
            own = (share * distance).sum(dim=1)
            divergence += own / len(views)
            share.mul_(distance.sub_(own[:, None])).div_(len(views))
        ctx.save_for_backward(*shares)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(slope * gradient[:, None] for slope in ctx.saved_tensors)


def _mixture(
    views: Sequence[Float[Tensor, "B K H W"]], weight_logits: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "B K H W"]:
    if weight_logits is None:
        return torch.logsumexp(torch.stack(list(views)), dim=0) - math.log(len(views))
    weight = weight_logits.float().log_softmax(dim=0)
    return torch.logsumexp(torch.stack([view + weight[k] for k, view in enumerate(views)]), dim=0)


def _sum_of_divergences(
    views: Sequence[Float[Tensor, "B K H W"]], mixture: Float[Tensor, "B K H W"]
) -> Float[Tensor, "B H W"]:
    """Sum over views of KL(view || mixture) of every pixel, all as logarithms."""
    total = torch.zeros_like(mixture[:, 0])
    for view in views:
        total = total + (view.exp() * (view - mixture)).sum(dim=1)
    return total
