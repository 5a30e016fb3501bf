"""Assigning samples to classes whose shares are given (CPSL, CVPR 2022; before it, SwAV)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "N K"],
    share: Float[Tensor, " K"],
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Float[Tensor, "N K"]:
    """Soft assignments of samples, of which each class gets about its share.

    The entropic optimal transport between samples of equal weight and classes of given weight:
    exp(scores / epsilon) with rows and columns scaled in turn. Rows sum to 1; the more iterations,
    the closer columns come to N times their share. In logarithms, so that nothing overflows.

    Args:
        scores: of samples for classes; cosines in CPSL.
        share: of every class, positive or 0 and of sum 1; a class of share 0 gets nothing.
        epsilon: the smaller, the harder the assignments.
        iterations: at least 1.
    """
    log_kernel = scores.float() / epsilon
    log_share = share.float().log()
    rows = log_kernel.new_zeros(len(scores), 1)
    for _ in range(iterations):
        columns = log_share - (log_kernel + rows).logsumexp(dim=0)
        rows = -(log_kernel + columns).logsumexp(dim=1, keepdim=True)
    return (log_kernel + columns).softmax(dim=1)


def soft_cross_entropy(
    scores: Float[Tensor, "*N K"], assignment: Float[Tensor, "*N K"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean over samples of the cross-entropy against soft assignments, in nats.

    Args:
        scores: of samples for classes.
        assignment: probabilities of the classes, detached.
        temperature: of the softmax of the scores.
    """
    log_probability = (scores.float() / temperature).log_softmax(dim=-1)
    return -(assignment * log_probability).sum(dim=-1).mean()


def self_labelling(
    features: Float[Tensor, "B n C"],
    prototypes: Float[Tensor, "K C"],
    kept: Float[Tensor, "q C"],
    share: Float[Tensor, " K"],
    *,
    temperature: float,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of pixels against what Sinkhorn's algorithm assigns to them, in nats.

    CPSL's pixel-level self-labelling. Scores are cosines. The pixels of each image are assigned by
    themselves, together with those kept, which are not learnt. Features and prototypes get
    gradients.

    Args:
        features: of pixels, of length 1.
        prototypes: one for each class, of any length.
        kept: features of earlier pixels, of length 1; there may be none.
        share: of every class, of sum 1.
        temperature: of the softmax of the scores.
        epsilon: see :func:`sinkhorn`.
        iterations: likewise.
    """
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(prototypes.to(features.dtype), dim=1).T
        scores = features @ directions  # (B, n, K)
        earlier = kept.to(features.dtype) @ directions.detach()
    assigned = [
        sinkhorn(torch.cat([earlier, own]), share, epsilon=epsilon, iterations=iterations)
        for own in scores.detach()
    ]
    own_rows = torch.stack(assigned)[:, len(kept) :]
    return soft_cross_entropy(scores, own_rows, temperature=temperature)
