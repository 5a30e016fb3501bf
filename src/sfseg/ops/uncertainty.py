"""Model uncertainty as the disagreement of decoders (Fleuret et al., CVPR 2021)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def decoder_disagreement(
    auxiliary: Sequence[Float[Tensor, "B K H W"]], logits: Float[Tensor, "B K H W"]
) -> Float[Tensor, ""]:
    """Sum over decoders of the mean squared distance of their probabilities to the main ones.

    Means are over pixels and classes. The main decoder is the aim: it gets no gradient.

    Args:
        auxiliary: unnormalised scores of the auxiliary decoders, at least one.
        logits: of the main decoder.
    """
    aim = logits.detach().float().softmax(dim=1)
    distances = [(other.float().softmax(dim=1) - aim).square().mean() for other in auxiliary]
    return torch.stack(distances).sum()
