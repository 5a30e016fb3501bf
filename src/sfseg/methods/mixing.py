"""What methods share whose student learns images that are harder than its teacher's."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.masking import block_mask, strong_view
from sfseg.ops.padding import valid_pixels
from sfseg.types import Batch

HIDDEN = 0.7
"""Share of the blocks of a masked image (MIC)."""


def require_one_head(network: nn.Module) -> None:
    """Refuse a second head, which would not train.

    Raises:
        ConfigError: with the way out.
    """
    if getattr(network, "aux_head", None) is not None:
        raise ConfigError(
            "backbone.aux must be null for a mean teacher, which trains one head; choose a "
            "backbone without an auxiliary head"
        )


def strong(
    image: Shaped[Tensor, "B 3 H W"],
    network: nn.Module,
    *,
    colour: float,
    hue: float = 0.0,
    valid: Bool[Tensor, "B H W"] | None,
) -> Float[Tensor, "B 3 H W"]:
    """Images in [0, 1] and the network's precision, in other colours and blurred.

    Args:
        image: RGB in [0, 255].
        network: a :class:`Segmenter`.
        colour: strength of :func:`sfseg.ops.masking.strong_view`; 0 leaves the images as they are.
        hue: the same, of the hue; only with ``colour``.
        valid: pixels that belong to pictures; None: all.
    """
    view = image.float() / 255
    if colour:
        view = strong_view(view, strength=colour, hue=hue, valid=valid)
    return view.to(cast(Segmenter, network).mean.dtype)


def with_hidden_blocks(
    image: Float[Tensor, "B 3 H W"], network: nn.Module, *, block: int
) -> Float[Tensor, "B 3 H W"]:
    """Images with hidden blocks of the mean colour, which is 0 to the network (MIC, CVPR 2023).

    Args:
        image: RGB in [0, 1].
        network: a :class:`Segmenter`.
        block: side of a block in pixels.
    """
    visible = block_mask(image, ratio=HIDDEN, block=block)
    return torch.where(visible, image, cast(Segmenter, network).mean)


def window(source: Batch, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and pixels of pictures of a part of the source's, at a place drawn now.

    A batch is as large as its largest picture; where that is too small, nothing surrounds it.

    Args:
        source: with labels; taken together with the places at which it shows no picture.
        size: height and width of the part.

    Returns:
        (B, 3, h, w), (B, h, w) int64 and (B, h, w) bool.
    """
    image, label = source["image"], source["label"].long()
    shown = valid_pixels(source)
    shown = torch.ones_like(label, dtype=torch.bool) if shown is None else shown
    missing = [max(mine - theirs, 0) for mine, theirs in zip(size, label.shape[-2:], strict=True)]
    border = (0, missing[1], 0, missing[0])
    image, label, shown = F.pad(image, border), F.pad(label, border), F.pad(shown, border)
    top, left = (
        int(torch.randint(theirs - mine + 1, (), device="cpu"))
        for theirs, mine in zip(label.shape[-2:], size, strict=True)
    )
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return image[..., rows, columns], label[..., rows, columns], shown[..., rows, columns]
