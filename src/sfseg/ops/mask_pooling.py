"""Features of the pixels that masks cover."""

import torch
from jaxtyping import Float
from torch import Tensor


def mask_pooled(
    features: Float[Tensor, "B C h w"], masks: Float[Tensor, "B Q h w"]
) -> Float[Tensor, "B Q C"]:
    """Mean of the features where a mask's logit is positive; 0 of a mask that is empty.

    Args:
        features: of pixels.
        masks: logits, which get no gradient.
    """
    covered = (masks.detach() > 0).flatten(2)  # (B, Q, cells)
    share = covered.to(features.dtype)
    total = torch.einsum("bqn,bcn->bqc", share, features.flatten(2))
    return total / covered.sum(dim=-1, keepdim=True).clamp(min=1)
