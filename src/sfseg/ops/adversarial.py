"""Losses of verdicts on the domain of predictions (AdaptSegNet, Tsai et al., CVPR 2018)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfseg.checks import require_options

Domain = Literal["source", "target"]
DomainLoss = Literal["vanilla", "least_squares"]
"""Cross-entropy of the sigmoid, or squared distance of the plain verdict (LS-GAN)."""


def domain_loss(
    verdict: Float[Tensor, "..."], domain: Domain, kind: DomainLoss = "vanilla"
) -> Float[Tensor, ""]:
    """Mean loss of verdicts where their predictions are to pass for those of a domain.

    Args:
        verdict: of a discriminator, unbounded; the source is 0, the target 1.
        domain: the right answer, or the one that a network wishes for.
        kind: see :data:`DomainLoss`.

    Raises:
        ValueError: an unknown domain or kind.
    """
    require_options(domain=(domain, Domain), kind=(kind, DomainLoss))
    verdict = verdict.float()
    label = torch.full_like(verdict, float(domain == "target"))
    if kind == "least_squares":
        return F.mse_loss(verdict, label)
    return F.binary_cross_entropy_with_logits(verdict, label)
