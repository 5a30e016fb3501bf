"""Losses on logits and label maps."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from sfseg.types import IGNORE

Normalize = Literal["valid", "all"]


def cross_entropy(
    logits: Float[Tensor, "B K H W"],
    label: Integer[Tensor, "B H W"],
    *,
    normalize: Normalize = "valid",
    weight: Float[Tensor, "B H W"] | None = None,
) -> Float[Tensor, ""]:
    """Pixel-wise cross-entropy that ignores :data:`IGNORE`; 0, not NaN, when all is ignored.

    Args:
        logits: unnormalised scores.
        label: class ids.
        normalize: ``valid`` is the mean over labelled pixels; ``all`` the sum over labelled
            pixels divided by all pixels, as mmsegmentation does, so that sparse labels weigh
            less.
        weight: of each pixel's loss; what the sum is divided by stays a count of pixels. None: 1.
    """
    if normalize not in ("valid", "all"):
        raise ValueError(f"normalize must be 'valid' or 'all', got {normalize!r}")
    # With classes last, as heads lay them out in memory, this takes half the time on processors.
    rows = logits.float().permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, K)
    ids = label.flatten().long()
    if weight is None:
        total = F.cross_entropy(rows, ids, ignore_index=IGNORE, reduction="sum")
    else:
        each = F.cross_entropy(rows, ids, ignore_index=IGNORE, reduction="none")
        total = each @ weight.flatten().to(each.dtype)
    if normalize == "all":
        return total / label.numel()
    return total / (label != IGNORE).sum().clamp_min(1)
