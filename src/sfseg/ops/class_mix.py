"""ClassMix (Olsson et al., WACV 2021): all pixels of some classes go from one image to another."""

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor


def class_mask(
    label: Integer[Tensor, "B H W"],
    *,
    num_classes: int,
    weight: Float[Tensor, " K"] | None = None,
    of_batch: bool = False,
    valid: Bool[Tensor, "B H W"] | None = None,
) -> Bool[Tensor, "B H W"]:
    """The pixels of half of the classes that an image has, drawn for every image by itself.

    Half of an odd number is rounded up as in DACS, so that an image of one class is taken whole.
    Draws from torch's global generator on the labels' device.

    Args:
        label: class ids; those that are no class, such as IGNORE, are never taken.
        num_classes: K.
        weight: positive; a class is drawn in proportion to it among those not drawn yet. None
            draws all alike.
        of_batch: draw from the classes of all images together, void among them, as DACS' code
            does: of a batch of two, an image may give anything from nothing to all it has.
        valid: pixels that may be taken, whose classes alone are drawn from; None: all.
    """
    batch = len(label)
    ids = label.flatten(1).long().clamp(max=num_classes)  # (B, H * W); K is no class
    shown = ids if valid is None else ids.masked_fill(~valid.flatten(1), num_classes + 1)
    present = torch.zeros(batch, num_classes + 2, dtype=torch.bool, device=label.device)
    present = present.scatter_(1, shown, True)[:, :-1]
    if of_batch:
        present = present.any(dim=0).expand(batch, -1)
    else:
        present[:, num_classes] = False
    # Of independent exponential waiting times, the next to end is a class in proportion to its
    # rate: a draw without replacement.
    waiting = torch.empty(batch, num_classes, device=label.device).exponential_()
    if weight is not None:
        waiting = waiting / weight
    void = torch.zeros_like(waiting[:, :1])
    waiting = torch.cat([waiting, void.exponential_() if of_batch else void], dim=1)
    place = waiting.masked_fill(~present, torch.inf).argsort(dim=1).argsort(dim=1)
    drawn = present & (place < (present.sum(dim=1, keepdim=True) + 1) // 2)
    taken = drawn.gather(1, ids).view(label.shape)
    return taken if valid is None else taken & valid


def rarity(pixels: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """Weights of :func:`class_mask` that prefer rare classes: 1 / ln(1.01 + share of the pixels).

    As DT-ST's code (Zhao et al., CVPR 2023) draws its images; from 1.4 for a class that is alone to
    100 for one without pixels.

    Args:
        pixels: of each class, of any unit; all 0 where nothing has been seen.
    """
    return 1 / torch.log(1.01 + pixels / pixels.sum().clamp_min(1))


def paste(
    values: Shaped[Tensor, "B ... H W"], taken: Bool[Tensor, "B H W"]
) -> Shaped[Tensor, "B ... H W"]:
    """Every image with the taken pixels of the one before it, the first with those of the last.

    An image that is alone in its batch stays as it is.

    Args:
        values: images (B, C, H, W) or maps (B, H, W).
        taken: pixels that an image gives to the next one.
    """
    pasted = taken.roll(1, dims=0)
    if values.ndim > taken.ndim:
        pasted = pasted[:, None]
    return torch.where(pasted, values.roll(1, dims=0), values)
