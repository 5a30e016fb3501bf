"""Keeps a model from being too sure of its pseudo-labels: CRST (Zou et al., ICCV 2019)."""

from jaxtyping import Float, Integer
from torch import Tensor

from sfseg.types import IGNORE


def uniform_divergence(
    logits: Float[Tensor, "B K H W"], label: Integer[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Mean over labelled pixels of -sum over classes of log(p_c) / K, the regulariser of MRKLD.

    The divergence of the prediction from the uniform distribution plus ln K, its least value. 0
    where no pixel has a label.

    Args:
        logits: unnormalised scores.
        label: pseudo-labels, of which only IGNORE matters.
    """
    doubt = -logits.float().log_softmax(dim=1).mean(dim=1)  # (B, H, W)
    valid = label != IGNORE
    return (doubt * valid).sum() / valid.sum().clamp_min(1)
