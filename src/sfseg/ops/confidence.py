"""Thresholds on confidence, class by class, without keeping or sorting confidences.

Histograms are additive: over batches, over ranks, and by subtraction over what a window of time
drops. A quantile read from one is off by less than the width of a bin.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

BINS = 1000
SMALLEST_COUNT = 1e-3
"""Decayed counts are rounded to it: a pixel of a rare class counts after hundreds of iterations."""


def confidence_histogram(
    confidence: Float[Tensor, "*shape"],
    label: Integer[Tensor, "*shape"],
    *,
    num_classes: int,
    bins: int = BINS,
) -> Integer[Tensor, "K bins"]:
    """How many pixels of every class have a confidence in each of the equal parts of [0, 1].

    Args:
        confidence: probability of the predicted class; NaN counts as 0.
        label: predicted class ids; those that are no class, such as IGNORE, are not counted.
        num_classes: K.
        bins: number of parts; the first K * bins integers must fit into 32 bits.
    """
    part = (confidence.flatten().float() * bins).nan_to_num_(0).clamp_(0, bins - 1).int()
    # What is no class goes to one more, which is cut off.
    code = label.flatten().clamp(max=num_classes).int().mul_(bins).add_(part)
    counts = torch.bincount(code, minlength=(num_classes + 1) * bins)
    return counts[: num_classes * bins].reshape(num_classes, bins)


def class_quantiles(histogram: Integer[Tensor, "K bins"], share: float) -> Float[Tensor, " K"]:
    """Confidence below which a share of each class's pixels lies; NaN for a class without any.

    It estimates the value of rank round(share * n) of n sorted confidences, counted from 0 and
    at most n - 1, by sharing the pixels of its bin out evenly. No confidence exceeds NaN, so that
    an absent class selects nothing.

    Args:
        histogram: sum of :func:`confidence_histogram`.
        share: in [0, 1]; 0.8 keeps the most confident fifth.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    bins = histogram.shape[1]
    below = histogram.cumsum(dim=1)  # at the upper end of each bin
    total = below[:, -1]
    rank = (total.double() * share).round().long().minimum(total - 1)
    part = (below <= rank[:, None]).sum(dim=1, keepdim=True).clamp_max(bins - 1)
    inside = histogram.gather(1, part)[:, 0]
    position = rank - (below.gather(1, part)[:, 0] - inside)  # of the pixel among those of its bin
    value = (part[:, 0] + (position + 0.5) / inside) / bins
    return torch.where(total > 0, value, torch.nan).float()


def decayed_thresholds(
    histogram: Float[Tensor, "K bins"], share: float, *, least: float
) -> Float[Tensor, " K"]:
    """Confidence from which a pixel of each class counts: a quantile, rounded down to its bin.

    Confidences of one bin are not told apart, so that half of a class which is certain everywhere
    is not left out. A class that has not been seen has no quantile.

    Args:
        histogram: of :func:`confidence_histogram`, decayed by factors below 1 from time to time.
        share: of each class's pixels, the least confident, that do not count, in [0, 1]; 0 leaves
            the least alone.
        least: of all thresholds, in [0, 1].
    """
    quantile = torch.zeros_like(histogram[:, 0])
    if share:
        counts = (histogram / SMALLEST_COUNT).round().long()
        quantile = class_quantiles(counts, share).nan_to_num(0)
    bins = histogram.shape[1]
    return ((quantile * bins).floor() / bins).clamp_min(least)
