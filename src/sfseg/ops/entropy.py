"""Entropy of predictions, in nats and as a fraction of what full ignorance has."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def entropy(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """-sum_c p_c ln p_c of every pixel's prediction, in [0, ln K] but for rounding.

    Value and gradient stay finite where probabilities underflow.

    Raises:
        ValueError: fewer than two classes, which leave nothing to be uncertain about.
    """
    num_classes = logits.shape[1]
    if num_classes < 2:
        raise ValueError(f"logits must have at least 2 classes, got {num_classes}")
    log_probability = logits.float().log_softmax(dim=1)
    return -(log_probability.exp() * log_probability).sum(dim=1)


def normalized_entropy(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """:func:`entropy` over ln K: 0 is certain, 1 is uniform.

    Raises:
        ValueError: see there.
    """
    normalized = entropy(logits) / math.log(logits.shape[1])
    return normalized.clamp(0, 1)  # rounding goes beyond by 1e-7


def probability_entropy(probability: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """:func:`normalized_entropy` of what is given as probabilities, in their precision.

    Raises:
        ValueError: see there.
    """
    num_classes = probability.shape[1]
    if num_classes < 2:
        raise ValueError(f"probability must be of at least 2 classes, got {num_classes}")
    nats: Tensor = torch.special.entr(probability).sum(dim=1)
    return (nats / math.log(num_classes)).clamp(0, 1)


def robust_entropy(logits: Float[Tensor, "B K H W"], *, exponent: float = 2.0) -> Float[Tensor, ""]:
    """Mean over pixels of the Charbonnier penalty (h^2 + 1e-8)^exponent of the entropy h.

    Above an exponent of 1/2 it spares pixels that are nearly certain and pushes those that are
    not (Yang and Soatto, FDA, CVPR 2020).

    Args:
        logits: unnormalised scores.
        exponent: 2 in FDA, Generalize then Adapt and Uni-UVPT.
    """
    return (normalized_entropy(logits).square() + 1e-8).pow(exponent).mean()
