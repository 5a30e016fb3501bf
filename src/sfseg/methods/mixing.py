"""What methods share whose student learns images that are harder than its teacher's."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.methods.two_resolutions import seen_in_training, with_detail
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import cross_entropy
from sfseg.ops.masking import strong_view
from sfseg.ops.padding import extents, of_pictures, valid_pixels
from sfseg.types import Batch


class Labelled(NamedTuple):
    """Images, and what is to be learnt of them.

    image: (B, 3, H, W) RGB in [0, 255].
    label: (B, H, W) class ids.
    weight: (B, H, W) of each pixel's loss.
    """

    image: Shaped[Tensor, "B 3 H W"]
    label: Integer[Tensor, "B H W"]
    weight: Float[Tensor, "B H W"]


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


def weighted_loss(
    network: nn.Module,
    view: Float[Tensor, "B 3 H W"],
    learnt: Labelled,
    valid: Bool[Tensor, "B H W"] | None,
) -> Float[Tensor, ""]:
    """Weighted cross-entropy of a student on a view, over the number of all pixels of pictures.

    Args:
        network: the student, a :class:`Segmenter`.
        view: of the images, RGB in [0, 1].
        learnt: labels and weights of their pixels.
        valid: pixels that belong to pictures; None: all.
    """
    logits, _, detail = seen_in_training(network, view, valid)
    return with_detail(_cross_entropy, logits, detail, learnt.label, learnt.weight, valid)


def _cross_entropy(logits: Tensor, label: Tensor, weight: Tensor, valid: Tensor | None) -> Tensor:
    seen, label, weight = (of_pictures(part, valid) for part in (logits, label, weight))
    return cross_entropy(seen, label, normalize="all", weight=weight)


def window(source: Batch, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and pixels of pictures of a part of the source's, at a place drawn now.

    A batch is as large as its largest picture; the place is one that the smallest has too. Where
    that is too small, nothing surrounds it.

    Args:
        source: with labels; taken together with the places at which it shows no picture.
        size: height and width of the part.

    Returns:
        (B, 3, h, w), (B, h, w) int64 and (B, h, w) bool.
    """
    image, label = source["image"], source["label"].long()
    valid = valid_pixels(source)
    shown = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    sides = tuple(label.shape[-2:])
    smallest = sides if valid is None else [min(own) for own in zip(*extents(valid), strict=True)]
    missing = [max(mine - theirs, 0) for mine, theirs in zip(size, sides, strict=True)]
    border = (0, missing[1], 0, missing[0])
    image, label, shown = F.pad(image, border), F.pad(label, border), F.pad(shown, border)
    top, left = (
        int(torch.randint(max(theirs - mine, 0) + 1, (), device="cpu"))
        for theirs, mine in zip(smallest, size, strict=True)
    )
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return image[..., rows, columns], label[..., rows, columns], shown[..., rows, columns]


def half_of_source(
    source: Batch, target: Labelled, valid: Bool[Tensor, "B H W"] | None
) -> tuple[Labelled, Bool[Tensor, "B H W"] | None]:
    """The first half of a batch replaced by images of the source, whose labels count whole.

    Args:
        source: as many images, with labels; of larger crops a window is taken.
        target: B images; of an odd number the source gets fewer.
        valid: pixels of the target that belong to pictures; None: all.

    Returns:
        Images, and which of their pixels belong to pictures; None: all.
    """
    half = len(target.label) // 2
    image, label, shown = window(source, (target.label.shape[-2], target.label.shape[-1]))
    theirs = Labelled(image, label, torch.ones_like(target.weight))
    parts = (torch.cat([s[:half], t[half:]]) for s, t in zip(theirs, target, strict=True))
    others = torch.ones_like(shown) if valid is None else valid
    both = torch.cat([shown[:half], others[half:]])
    return Labelled(*parts), None if bool(both.all()) else both
