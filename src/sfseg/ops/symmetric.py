"""Symmetric cross-entropy (Wang et al., ICCV 2019), which noisy labels mislead less."""

import math

from jaxtyping import Float, Integer
from torch import Tensor

from sfseg.ops.losses import cross_entropy
from sfseg.types import IGNORE

LOG_FLOOR = math.log(1e-4)
"""Stands for the logarithm of 0 in the reverse cross-entropy."""


def reverse_cross_entropy(
    logits: Float[Tensor, "B K H W"], label: Integer[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Mean over labelled pixels of -sum_k p_k log q_k, where q is 1 for the label and 1e-4 else.

    That is 9.21 times the probability of all other classes; 0 when all is ignored.

    Args:
        logits: unnormalised scores.
        label: class ids, or IGNORE.
    """
    known = label != IGNORE
    ids = label.long().masked_fill(~known, 0)
    own = logits.float().softmax(dim=1).gather(1, ids[:, None])[:, 0]
    return -LOG_FLOOR * ((1 - own) * known).sum() / known.sum().clamp_min(1)


def symmetric_cross_entropy(
    logits: Float[Tensor, "B K H W"],
    label: Integer[Tensor, "B H W"],
    *,
    forward_weight: float = 0.1,
    reverse_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Weighted sum of cross-entropy and its reverse.

    Args:
        logits: unnormalised scores.
        label: class ids, or IGNORE.
        forward_weight: of the cross-entropy; 0.1 in ProDA and CPSL.
        reverse_weight: of the reverse; 1 there.
    """
    reverse = reverse_cross_entropy(logits, label)
    return forward_weight * cross_entropy(logits, label) + reverse_weight * reverse
