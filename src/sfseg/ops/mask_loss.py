"""How well masks fit masks: losses, and the assignment of predicted to true ones.

Mask2Former (Cheng et al., CVPR 2022, arXiv:2112.01527), after DETR (Carion et al., ECCV 2020).
``weight`` says which points count, 1 or 0; without it all do.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Targets(NamedTuple):
    """The true masks of an image: one of each class that it shows.

    classes: (T,) ids.
    masks: (T, H, W).
    """

    classes: Integer[Tensor, " T"]
    masks: Bool[Tensor, "T H W"]


def class_masks(label: Integer[Tensor, "H W"], num_classes: int) -> Targets:
    """The mask of each class of a label map; ids beyond the classes, such as IGNORE, have none."""
    present = torch.unique(label)
    classes = present[present < num_classes].long()
    return Targets(classes, label == classes[:, None, None])


def binary_cross_entropy(
    masks: Float[Tensor, "N P"],
    targets: Float[Tensor, "N P"],
    weight: Float[Tensor, "N P"] | None = None,
) -> Float[Tensor, " N"]:
    """Mean over the points of each mask.

    Args:
        masks: logits.
        targets: in [0, 1].
        weight: see above.
    """
    each = F.binary_cross_entropy_with_logits(masks, targets, reduction="none")
    if weight is None:
        return each.mean(dim=1)
    return (each * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)


def dice(
    masks: Float[Tensor, "N P"],
    targets: Float[Tensor, "N P"],
    weight: Float[Tensor, "N P"] | None = None,
) -> Float[Tensor, " N"]:
    """1 - (2 p t + 1) / (p + t + 1), each summed over the points of a mask; see above."""
    probability = masks.sigmoid()
    if weight is not None:
        probability, targets = probability * weight, targets * weight
    both = (probability * targets).sum(dim=1)
    return 1 - (2 * both + 1) / (probability.sum(dim=1) + targets.sum(dim=1) + 1)


def pairwise_binary_cross_entropy(
    masks: Float[Tensor, "Q P"],
    targets: Float[Tensor, "T P"],
    weight: Float[Tensor, " P"] | None = None,
) -> Float[Tensor, "Q T"]:
    """:func:`binary_cross_entropy` of every mask with every target."""
    inside, outside = F.softplus(-masks), F.softplus(masks)
    count = torch.tensor(masks.shape[1], device=masks.device, dtype=masks.dtype)
    if weight is not None:
        inside, outside, count = inside * weight, outside * weight, weight.sum().clamp_min(1)
    return (inside @ targets.T + outside @ (1 - targets).T) / count


def pairwise_dice(
    masks: Float[Tensor, "Q P"],
    targets: Float[Tensor, "T P"],
    weight: Float[Tensor, " P"] | None = None,
) -> Float[Tensor, "Q T"]:
    """:func:`dice` of every mask with every target."""
    probability = masks.sigmoid()
    if weight is not None:
        probability, targets = probability * weight, targets * weight
    both = probability @ targets.T
    sums = probability.sum(dim=1)[:, None] + targets.sum(dim=1)
    return 1 - (2 * both + 1) / (sums + 1)


def assigned(cost: Float[Tensor, "Q T"]) -> tuple[Integer[Tensor, " M"], Integer[Tensor, " M"]]:
    """The rows and columns of least total cost, each in one pair at most; M = min(Q, T).

    What is not finite is as costly as can be: the loss of such a pair will say so.
    """
    largest = torch.finfo(torch.float32).max
    finite = torch.nan_to_num(cost.float(), nan=largest, posinf=largest, neginf=-largest)
    rows, columns = linear_sum_assignment(finite.cpu().numpy())
    return (
        torch.as_tensor(rows, dtype=torch.long, device=cost.device),
        torch.as_tensor(columns, dtype=torch.long, device=cost.device),
    )
