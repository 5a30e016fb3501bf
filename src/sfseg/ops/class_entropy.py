"""How uncertain a model is of each class on a whole set (UPLR, ICCV 2021)."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

UNIT = 1 << 24
"""Parts of an entropy of 1 that are counted: whole numbers, whose sum no order changes."""


def empty_class_entropy(num_classes: int, *, device: torch.device | None = None) -> Tensor:
    """(2, K) zeros for :func:`add_class_entropy`."""
    return torch.zeros(2, num_classes, dtype=torch.int64, device=device)


def add_class_entropy(
    sums: Integer[Tensor, "2 K"],
    entropy: Float[Tensor, "*shape"],
    label: Integer[Tensor, "*shape"],
) -> None:
    """Add, in place, the entropies of pixels to those of their predicted classes.

    Sums of parts of a set, on several processes, add up to exactly that of the set.

    Args:
        sums: of :func:`empty_class_entropy`.
        entropy: in [0, 1].
        label: predicted class ids.
    """
    parts = (entropy.flatten().double() * UNIT).round().long()
    own = label.flatten().long()
    sums[0].index_add_(0, own, parts)
    sums[1].index_add_(0, own, torch.ones_like(own))


def mean_class_entropy(sums: Integer[Tensor, "2 K"]) -> Float[Tensor, " K"]:
    """Mean entropy in [0, 1] of the pixels that each class was predicted for.

    A class that was predicted nowhere counts as fully uncertain, 1; the paper says nothing of it.
    """
    mean = sums[0].double() / UNIT / sums[1].clamp(min=1)
    return torch.where(sums[1] > 0, mean, 1.0)


def by_uncertainty(entropy: Float[Tensor, " K"]) -> list[int]:
    """Ids of the classes, that of the largest entropy first; the first k of them are S_k."""
    ranked: list[int] = entropy.argsort(descending=True, stable=True).tolist()
    return ranked
