"""How far two networks see different relations: dual attention (SFDA, Liu et al., CVPR 2021).

Attention maps are computed in single precision whatever autocast says: products of features reach
values that half precision does not hold.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfseg.checks import require_options, require_positive

AttentionNorm = Literal["l2", "none"]
SpatialProduct = Literal["danet", "literal"]
OutputScale = Literal["probabilities", "logits"]


class Attention(NamedTuple):
    """Logarithms of spatial and channel attention; every row is a distribution.

    spatial: of positions, equation (8).
    channel: of channels, equation (9).
    """

    spatial: Float[Tensor, "B N N"]
    channel: Float[Tensor, "B C C"]


def log_attention(
    feature: Float[Tensor, "B C h w"], *, norm: AttentionNorm = "l2", temperature: float = 0.1
) -> Attention:
    """Which positions, and which channels, resemble each other.

    As printed (``norm=none``, temperature 1) the softmax is all but one-hot for features of a
    trained network, and hands no gradient on. With vectors of length 1 it is not.

    Args:
        feature: N = h * w positions.
        norm: ``l2`` divides by their lengths the vectors whose products are taken.
        temperature: of both softmaxes.

    Raises:
        ValueError: an unknown norm, or a temperature that is not positive.
    """
    require_options(norm=(norm, AttentionNorm))
    require_positive(temperature=temperature)
    with torch.autocast(feature.device.type, enabled=False):
        x = feature.float().flatten(2)  # (B, C, N)
        at, along = (F.normalize(x, dim=d) if norm == "l2" else x for d in (1, 2))
        spatial = at.transpose(1, 2) @ at / temperature
        channel = along @ along.transpose(1, 2) / temperature
        return Attention(spatial.log_softmax(dim=-1), channel.log_softmax(dim=-1))


def dual_attention_map(
    feature: Float[Tensor, "B C h w"],
    attention: Attention,
    *,
    product: SpatialProduct = "danet",
) -> Float[Tensor, "B D N"]:
    """Features mixed by either attention, one below the other: equation (10), D = 2 C.

    Args:
        feature: what the attention is of.
        attention: of :func:`log_attention`.
        product: ``danet`` gives every position a convex combination of positions, as in the work
            that the paper builds on; ``literal`` multiplies by the map as it stands, which weighs
            with its columns.

    Raises:
        ValueError: an unknown product.
    """
    require_options(product=(product, SpatialProduct))
    with torch.autocast(feature.device.type, enabled=False):
        x = feature.float().flatten(2)
        spatial, channel = attention.spatial.exp(), attention.channel.exp()
        positions = x @ (spatial.transpose(1, 2) if product == "danet" else spatial)
        return torch.cat([positions, channel @ x], dim=1)


def attention_divergence(fake: Attention, target: Attention) -> Float[Tensor, ""]:
    """KL(fake || target), mean over rows, of both maps: equation (7).

    Images are paired as they come. Finite, with its gradient, where probabilities are 0.
    """
    total = torch.zeros((), device=fake.spatial.device)
    for mine, theirs in zip(fake, target, strict=True):
        rows = mine.shape[0] * mine.shape[1]
        total = total + F.kl_div(theirs, mine, reduction="sum", log_target=True) / rows
    return total


def output_distance(
    logits: Float[Tensor, "B K H W"],
    reference: Float[Tensor, "B K H W"],
    *,
    of: OutputScale = "probabilities",
) -> Float[Tensor, ""]:
    """Mean absolute difference of two predictions, over classes too: equation (5).

    Args:
        logits: unnormalised scores.
        reference: likewise.
        of: ``probabilities``, at most 2 / K apart, or ``logits``, which are not bounded, as in the
            work on data-free distillation that the paper follows.

    Raises:
        ValueError: an unknown scale.
    """
    require_options(of=(of, OutputScale))
    mine, theirs = logits.float(), reference.float()
    if of == "probabilities":
        mine, theirs = mine.softmax(dim=1), theirs.softmax(dim=1)
    return (mine - theirs).abs().mean()
