"""Predictions of whole training images, each made by one process and known to all."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from sfseg.ops.inference import Inference
from sfseg.ops.processes import dealt

KINDS = (1, torch.long), (2, torch.long), (3, torch.uint8), (3, torch.float32)
"""Sides and types of what :func:`whole_images` finds."""


def whole_images(
    module: LightningModule, batches: Iterable[Mapping[str, Tensor]], predict: Inference
) -> Iterator[tuple[Tensor, ...]]:
    """Numbers (B,), places (B, 9), classes (B, H, W) and their confidences, in the images' order.

    All processes come here, and for each image.

    Args:
        module: predicts; it is in the mode in which it is to do so.
        batches: this process's share of the images, which are dealt in turn.
        predict: how.
    """

    def own() -> Iterator[tuple[Tensor, ...]]:
        for batch in batches:
            parts = (batch[key].to(module.device) for key in ("index", "geometry", "image"))
            index, place, image = parts
            confidence, label = predict(module, image).float().softmax(dim=1).max(dim=1)
            yield index, place, label.to(torch.uint8), confidence

    yield from dealt(own(), *KINDS, device=module.device)
