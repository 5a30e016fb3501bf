"""Assigning samples to classes whose shares are given (CPSL, CVPR 2022; before it, SwAV)."""

import torch
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
