"""Lovasz-softmax: a surrogate of the IoU (Berman, Triki and Blaschko, CVPR 2018)."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from sfseg.types import IGNORE

_BITS_OF_INFINITY = 0x7F800000


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
    order = _descending(error.detach(), valid)
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


def _descending(error: Float[Tensor, "k P"], valid: Bool[Tensor, " P"]) -> Integer[Tensor, "k P"]:
    """Places of each row's errors, largest first; ignored pixels come last and change nothing.

    NumPy sorts whole numbers 9 times faster than PyTorch sorts and keeps places (AVX-512; 313 ms
    for 19 classes of 262,144 pixels). Bits of errors from 0 grow with them, so that one number
    holds an error and, below it, its place.
    """
    if error.is_cuda:
        return error.masked_fill(~valid, -1).argsort(dim=1, descending=True)
    bits = error.to(torch.float32).contiguous().view(torch.int32)
    falling = _BITS_OF_INFINITY - bits.long()
    places = torch.arange(error.shape[1])
    keys = falling.masked_fill_(~valid, 2**31 - 1).bitwise_left_shift_(32).bitwise_or_(places)
    # In place, since they share their memory.
    np.ndarray.sort(keys.numpy(), axis=1)
    return keys.bitwise_and_(2**32 - 1)


def _jaccard_gain(truth: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
    """How much each pixel, in order of its error, adds to the Jaccard loss of its class.

    The differences of 1 - intersection / union in closed form: a pixel of the class leaves the
    intersection, any other joins the union. A class without pixels has weights of 0.
    """
    total, seen = truth.sum(dim=1, keepdim=True), truth.cumsum(dim=1)
    left = total - seen  # intersection
    union = left + torch.arange(1, truth.shape[1] + 1, device=truth.device)
    other = left / (union * (union - 1).clamp_min(1))
    return torch.where(truth.bool(), 1 / union.clamp_min(1), other)
