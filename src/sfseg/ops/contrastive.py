"""Historical contrastive learning (HCL, Huang et al., NeurIPS 2021), as its published code has it.

Beside a student stand its moving average and a historical copy of it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from sfseg.ops.entropy import normalized_entropy
from sfseg.types import IGNORE


@torch.no_grad()
def historical_agreement(
    logits: Float[Tensor, "B K H W"], historical: Float[Tensor, "B K H W"]
) -> Float[Tensor, "B H W"]:
    """exp(-KL(historical || average)) of every pixel, in (0, 1]: 1 where both predict the same.

    Args:
        logits: of the moving average.
        historical: of the historical copy, whose probabilities weigh the divergence.
    """
    now, before = logits.float().log_softmax(dim=1), historical.float().log_softmax(dim=1)
    return (-F.kl_div(now, before, reduction="none", log_target=True).sum(dim=1)).exp()


def weighted_cross_entropy(
    logits: Float[Tensor, "B K H W"],
    label: Integer[Tensor, "B H W"],
    weight: Float[Tensor, "B H W"],
) -> Float[Tensor, ""]:
    """Mean over all pixels, labelled or not, of their weight times their cross-entropy.

    Args:
        logits: unnormalised scores.
        label: class ids; pixels of IGNORE count as 0.
        weight: of every pixel.
    """
    rows = logits.float().permute(0, 2, 3, 1).flatten(0, 2)
    ids = label.flatten().long()
    loss = F.cross_entropy(rows, ids, ignore_index=IGNORE, reduction="none")
    return (loss * weight.flatten()).mean()


def pixel_counts(label: Integer[Tensor, "B H W"], *, num_classes: int) -> Integer[Tensor, "B K"]:
    """How many pixels of each class every image has."""
    ids = label.flatten(1).long().clamp(max=num_classes)
    counts = torch.zeros(len(label), num_classes + 1, dtype=torch.long, device=label.device)
    return counts.scatter_add_(1, ids, torch.ones_like(ids))[:, :num_classes]


def of_pixels(
    weight: Float[Tensor, "B K"], label: Integer[Tensor, "B H W"]
) -> Float[Tensor, "B H W"]:
    """The weight of every pixel's class in its image; of IGNORE, that of any class."""
    ids = label.flatten(1).long().clamp(max=weight.shape[1] - 1)
    return weight.gather(1, ids).view(label.shape)


@torch.no_grad()
def reliability(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """Weights of keys: 1.1 minus their normalised entropy, cut to [0.9, 1.1]."""
    return (1.1 - normalized_entropy(logits)).clamp(0.9, 1.1)


def historical_contrast(
    features: Float[Tensor, "B n C"],
    keys: Float[Tensor, "B n C"],
    label: Integer[Tensor, "B n"],
    weight: Float[Tensor, "B n"],
    *,
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Draws pixels to those of the same pseudo-label in another model's view of their image.

    For pixel i and every j != i of its label, -log(w_j e_ij / sum over j' != i of w_j' e_ij') with
    e = exp(cosine / temperature); summed over j, divided by n - and not, as in supervised
    contrastive learning, by the number of such j: a pixel weighs as its class is frequent. The
    mean over labelled pixels; the others are left out altogether. 0 where nothing remains.

    Args:
        features: the student's.
        keys: the other model's, detached, of the same pixels.
        label: class ids, IGNORE where there is none.
        weight: of the keys, positive; see :func:`reliability`.
        temperature: tau.
    """
    with torch.autocast(features.device.type, enabled=False):
        mine, theirs = (F.normalize(part.float(), dim=2) for part in (features, keys))
        cosine = mine @ theirs.transpose(1, 2)
    score = cosine / temperature + weight.log()[:, None]  # (B, n, n)
    known = label != IGNORE
    other = ~torch.eye(label.shape[1], dtype=torch.bool, device=label.device)
    compared = other & known[:, :, None] & known[:, None]
    positive = compared & (label[:, :, None] == label[:, None])
    # A finite floor: rows without anything to compare would be NaN, and so their gradients.
    log_share = score.masked_fill(~compared, torch.finfo(score.dtype).min).log_softmax(dim=2)
    loss = -torch.where(positive, log_share, 0.0).sum(dim=2) / label.shape[1]
    return loss.sum() / known.sum().clamp_min(1)
