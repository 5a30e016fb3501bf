"""Which predictions become pseudo-labels: thresholds of each class over many images, and of one.

A share is found from a histogram of 1 - confidence whose bins are a 4096th of an octave: where most
predictions are nearly certain, as those of road and sky are, equal bins of the confidence would
take all of them for alike.
"""

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from sfseg.types import IGNORE

_KEPT_BITS = 12  # of the 23 of a mantissa
_DROPPED_BITS = 23 - _KEPT_BITS
_LOWEST = (127 - 24) << _KEPT_BITS  # of 2^-24, the least that a float below 1 can lack
DOUBT_BINS = (24 << _KEPT_BITS) + 2
"""One for certainty, 24 octaves, and one for no confidence at all."""


def empty_histogram(num_classes: int, *, device: torch.device | None = None) -> Tensor:
    """(K, bins) zeros for :func:`count_doubts`."""
    return torch.zeros(num_classes, DOUBT_BINS, dtype=torch.int64, device=device)


def count_doubts(
    histogram: Integer[Tensor, "K bins"],
    confidence: Float[Tensor, "*shape"],
    label: Integer[Tensor, "*shape"],
) -> None:
    """Add how many pixels of every class lack how much to certainty, the most confident first.

    In place: a histogram is as large as hundreds of images. :func:`top_thresholds` reads it.

    Args:
        histogram: of :func:`empty_histogram`.
        confidence: probability of the predicted class; NaN counts as 0.
        label: predicted class ids; those that are no class, such as IGNORE, are not counted.
    """
    doubt = (1 - confidence.flatten().float()).nan_to_num_(1.0).clamp_(0, 1)
    # The bits of floats from 0 grow with them.
    bins = (doubt.view(torch.int32) >> _DROPPED_BITS).sub_(_LOWEST - 1).clamp_(min=0)
    own = label.flatten()
    is_class = own < len(histogram)
    code = (own.int() * DOUBT_BINS + bins)[is_class].long()
    histogram.view(-1).index_add_(0, code, torch.ones_like(code))


def top_thresholds(histogram: Integer[Tensor, "K bins"], portion: float) -> Float[Tensor, " K"]:
    """Confidence that a portion of each class's pixels reaches; 1 where that is no pixel.

    The n-th largest of a class's confidences with n = floor(portion * pixels), as in the code of
    CBST, or less by at most a 4096th of its distance to 1.

    Args:
        histogram: filled by :func:`count_doubts`.
        portion: in (0, 1]; 0.2 is the most confident fifth.

    Raises:
        ValueError: a portion outside (0, 1].
    """
    if not 0 < portion <= 1:
        raise ValueError(f"portion must be in (0, 1], got {portion}")
    above = histogram.cumsum(dim=1)
    rank = (above[:, -1].double() * portion).floor().long()
    part = (above < rank[:, None]).sum(dim=1)
    # The largest float of the bin, so that all of it reaches the threshold.
    last = ((part + _LOWEST) << _DROPPED_BITS) - 1
    doubt = last.clamp(max=(127 << 23)).int().view(torch.float32).double()
    doubt = torch.where((part == 0) | (rank == 0), 0.0, doubt)
    return (1 - doubt).float()


def confident_label(
    probability: Float[Tensor, "B K H W"], threshold: Float[Tensor, " K"]
) -> UInt8[Tensor, "B H W"]:
    """The most likely class where it reaches its threshold, IGNORE elsewhere."""
    confidence, label = probability.max(dim=1)
    return _where(confidence >= threshold[label], label)


def class_balanced_label(
    probability: Float[Tensor, "B K H W"], threshold: Float[Tensor, " K"]
) -> UInt8[Tensor, "B H W"]:
    """The class c of the largest p_c / k_c where that is at least 1, IGNORE elsewhere.

    Of class-balanced self-training (Zou et al., ECCV 2018). A rare class, whose threshold k is
    low, may win against one that is more likely.
    """
    ratio, label = (probability / threshold[:, None, None]).max(dim=1)
    return _where(ratio >= 1, label)


def united_label(
    probability: Float[Tensor, "B K H W"], threshold: Float[Tensor, " K"], portion: float
) -> UInt8[Tensor, "B H W"]:
    """The most likely class where it reaches its threshold or is among an image's top portion.

    LD (You et al., ACM MM 2021). Its published code accepts a pixel for any class above its own
    threshold, and then gives it the most likely one; here that one decides.

    Args:
        probability: of the pixels' classes.
        threshold: of each class over all images, see :func:`top_thresholds`.
        portion: of an image's pixels, the most confident ones of whatever class, in (0, 1].
    """
    confidence, label = probability.max(dim=1)
    rank = int(portion * confidence[0].numel())
    chosen = confidence >= threshold[label]
    if rank > 0:
        lowest = confidence.flatten(1).topk(rank, dim=1).values[:, -1]
        chosen |= confidence >= lowest[:, None, None]
    return _where(chosen, label)


def _where(chosen: Tensor, label: Tensor) -> UInt8[Tensor, "B H W"]:
    return torch.where(chosen, label, IGNORE).to(torch.uint8)
