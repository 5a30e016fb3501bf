"""Lovasz-softmax: a surrogate of the IoU (Berman, Triki and Blaschko, CVPR 2018)."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from sfseg.types import IGNORE


def lovasz_softmax(
    logits: Float[Tensor, "B K H W"], label: Integer[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Mean over the classes present in the batch of the Lovasz extension of 1 - IoU.

    Errors of a class are sorted, and each is weighted by what the Jaccard loss gains when that
    pixel becomes wrong too. Pixels of :data:`IGNORE` take no part; without any other pixel the
    loss is 0 and so is its gradient.

    Args:
        logits: unnormalised scores.
        label: class ids.
    """
    probability = logits.float().softmax(dim=1).transpose(0, 1).flatten(1)  # (K, B * H * W)
    ids = label.flatten().long()
    valid = ids != IGNORE
    classes = _classes(ids, valid, num_classes=logits.shape[1])
    truth = (ids == classes[:, None]).to(probability.dtype)  # (classes, pixels)
    error = (truth - probability[classes]).abs()
    # Ignored pixels come last, so that they change nothing for those before them.
    order = error.detach().masked_fill(~valid, -1).argsort(dim=1, descending=True)
    weight = _jaccard_gain(truth.gather(1, order)) * valid[order]
    present = truth.any(dim=1).sum().clamp_min(1)
    return (error.gather(1, order) * weight).sum() / present


def _classes(
    ids: Integer[Tensor, " P"], valid: Bool[Tensor, " P"], num_classes: int
) -> Integer[Tensor, " k"]:
    """Classes to sort the errors of; more than those present do not change the loss."""
    if ids.is_cuda:
        # A GPU sorts all at once, but would have to wait for the list of those that are there.
        return torch.arange(num_classes, device=ids.device)
    present: Tensor = torch.unique(ids[valid])
    return present


def _jaccard_gain(truth: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
    """How much each pixel, in order of its error, adds to the Jaccard loss of its class.

    The differences of 1 - intersection / union in closed form: a pixel of the class leaves the
    intersection, any other joins the union. A class without pixels has weights of 0.
    """
    total = truth.sum(dim=1, keepdim=True)
    left = total - truth.cumsum(dim=1)  # intersection
    union = total + (1 - truth).cumsum(dim=1)
    other = left / (union * (union - 1).clamp_min(1))
    return torch.where(truth.bool(), 1 / union.clamp_min(1), other)
