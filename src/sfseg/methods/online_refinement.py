"""Labels that a training step makes for itself, refined as stored ones are."""

from functools import partial

import torch
from jaxtyping import Integer
from torch import Tensor

from sfseg.methods.base import Method
from sfseg.ops.padding import each_picture, ignore_padding
from sfseg.randomness import seed32
from sfseg.types import IGNORE, Batch


def refined(
    method: Method, images: Batch, label: Integer[Tensor, "B H W"], valid: Tensor | None
) -> Integer[Tensor, "B H W"]:
    """Labels that a method has just given to images of a training batch, after its refiner.

    Each picture is looked at by itself, without its padding.

    Args:
        method: in training; it logs the shares of the refiner. Without one, labels stay.
        images: of the target, as they are served.
        label: theirs; IGNORE in padding.
        valid: see :mod:`sfseg.ops.padding`.
    """
    refiner = method.refiner
    if refiner is None:
        return label
    seeds = [seed32(0, method.iteration, k, "refined label") for k in images["index"].tolist()]
    refine = partial(refiner.refine, comes_again=refiner.views_come_again)
    if valid is None:
        made = refine(images["image"], label, seeds)
    else:
        made = torch.full_like(label, IGNORE)
        pictures = (each_picture(part, valid) for part in (images["image"], label))
        for k, (image, own) in enumerate(zip(*pictures, strict=True)):
            rows, columns = own.shape[1:]
            made[k, :rows, :columns] = refine(image, own, seeds[k : k + 1])[0]
    method.logged |= {name: torch.tensor(share) for name, share in refiner.taken().shares().items()}
    return ignore_padding(made, valid)
