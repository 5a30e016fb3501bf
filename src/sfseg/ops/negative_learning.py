"""Learning what a pixel is not: LD (You et al., ACM MM 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor


def negative_rank(num_classes: int, *, width: int = 3) -> int:
    """A rank to learn from, drawn from torch's global generator: about the middle, never the first.

    Uniform over floor(K / 2) - width to floor(K / 2) + width, as far as these are ranks from 2
    to K: the first is the prediction itself, and with few classes the window is cut.

    Args:
        num_classes: K.
        width: of the window on each side; 3 in LD.

    Raises:
        ValueError: fewer than two classes, a negative width.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if width < 0:
        raise ValueError(f"width must not be negative, got {width}")
    middle = max(2, num_classes // 2)
    low, high = max(2, middle - width), min(num_classes, middle + width)
    return int(torch.randint(low, high + 1, ()))


def negative_learning(logits: Float[Tensor, "B K H W"], rank: int) -> Float[Tensor, ""]:
    """Mean over pixels of -log(1 - p), p the probability of a pixel's class of that rank.

    At most ln 2, since a class that is not the first has at most half of the probability.

    Args:
        logits: unnormalised scores.
        rank: 2 is the second most likely class, K the least likely.

    Raises:
        ValueError: a rank outside [2, K].
    """
    num_classes = logits.shape[1]
    if not 2 <= rank <= num_classes:
        raise ValueError(f"rank must be in [2, {num_classes}], got {rank}")
    probability = logits.float().softmax(dim=1)
    # Stable: of classes that tie, the same one is taken everywhere.
    order = probability.detach().sort(dim=1, descending=True, stable=True).indices
    return -torch.log1p(-probability.gather(1, order[:, rank - 1 : rank])).mean()
