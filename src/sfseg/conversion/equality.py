"""Whether two networks compute the same, on an image that shows it."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg.conversion.architecture import Architecture
from sfseg.errors import ConfigError
from sfseg.networks.build import set_norm_eps
from sfseg.networks.segmenter import Segmenter

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference, as a share of how far their outputs spread over an image.

Both networks compute in double precision, but for some parts of transformers that insist on single:
equal ones differ by 1e-6 or less, a tensor in a wrong place or order by a hundredth and more.
"""
EPS_TOLERANCE = 1e-2
"""The same, where LayerNorms of the two have another eps, which no conversion can change."""
IMAGES = 3
"""That are tried at most, until one shows no difference."""
SIZE, EVEN_SIZE = (141, 203), (128, 192)
"""Height and width of the image; no stride divides the first, which is not for networks that
transformers does not pad for."""


def image(size: tuple[int, int], seed: int) -> Tensor:
    """A random image (1, 3, H, W) of normalised pixels, coarse forms and fine grain."""
    random = torch.Generator().manual_seed(seed)
    forms = torch.randn(1, 3, 5, 7, dtype=torch.float64, generator=random)
    grain = torch.randn(1, 3, *size, dtype=torch.float64, generator=random)
    return F.interpolate(forms, size=size, mode="bilinear", align_corners=False) + 0.3 * grain


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of outputs, relative to the standard deviation over their places.

    Args:
        ours: maps (B, K, h, w), or what queries say (B, Q, K).
        theirs: the same.

    Raises:
        ConfigError: they are of other sizes, or alike everywhere, so that they say nothing.
    """
    worst = 0.0
    for own, other in zip(ours, theirs, strict=True):
        if own.shape != other.shape:
            raise ConfigError(
                f"the converted network answers with {tuple(own.shape)} numbers, the other one "
                f"with {tuple(other.shape)}; nothing was written"
            )
        places = (2, 3) if other.ndim == 4 else (1,)
        spread = float((other - other.mean(dim=places, keepdim=True)).std())
        if not spread > 0:
            raise ConfigError(
                "the network says the same of every place of an image, or no number at all, so "
                "that it cannot be compared; nothing was written; take one that was trained"
            )
        worst = max(worst, float((own - other).abs().max()) / spread)
    return worst


def compare(
    architecture: Architecture, network: Segmenter, model: Any, seed: int = 0
) -> tuple[float, float]:
    """How far a network of ours and one of transformers' differ on a random image.

    Args:
        architecture: of both.
        network: ours; stays as it is.
        model: theirs; is in double precision and eval mode afterwards.
        seed: of the image.

    Returns:
        With the eps of theirs in our LayerNorms too, which compares the weights, and as they are.

    Raises:
        ConfigError: see :func:`difference`.
    """
    own, model = deepcopy(network).double().eval(), model.double().eval()
    pixels = image(SIZE if own.backbone.stride_multiple == 4 else EVEN_SIZE, seed)
    with torch.inference_mode():
        theirs = architecture.their_outputs(model, pixels)
        as_it_is = difference(architecture.outputs(own, pixels), theirs)
        set_norm_eps(own.backbone, architecture.norm_eps(own))
        return difference(architecture.outputs(own, pixels), theirs), as_it_is


def require_equal(architecture: Architecture, network: Segmenter, model: Any) -> None:
    """Refuse networks that :func:`compare` finds to differ, and say how near others are.

    Raises:
        ConfigError: says by how much.
    """
    # The last bit of a number may decide whether a query of Mask2Former looks at a cell, in one
    # image or another; a wrong weight shows in all.
    for seed in range(IMAGES):
        aligned, as_it_is = compare(architecture, network, model, seed)
        if aligned <= TOLERANCE:
            break
    if not aligned <= TOLERANCE:
        raise ConfigError(
            f"the converted network differs by {aligned:.1e} of the spread of its outputs, where "
            f"equal ones do by {TOLERANCE:.0e} at most; nothing was written"
        )
    eps = architecture.norm_eps(network)
    if not as_it_is <= EPS_TOLERANCE:
        raise ConfigError(
            f"the weights agree, but LayerNorms have the eps {eps} in transformers and another one "
            f"here, which changes the outputs of this network by {as_it_is:.1e} of their spread; "
            f"nothing was written; train it further with +backbone.network.norm_eps={eps}"
        )
    log.info(
        "compared with transformers.%s on a random image, in double precision: the outputs differ "
        "by %.1e of their spread", architecture.name, aligned,
    )  # fmt: skip
    if as_it_is > TOLERANCE:
        log.warning(
            "LayerNorms have the eps %s in transformers and another one here: as they are, the "
            "outputs differ by %.1e of their spread; +backbone.network.norm_eps=%s in a run's "
            "training avoids it", eps, as_it_is, eps,
        )  # fmt: skip
