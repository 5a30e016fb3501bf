"""Draws the images that a generator has made up, and what source model and network see in them."""

import logging
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from sfseg.callbacks.order import Ordered
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.report.drawing import Pixels, colourise, legend, sheet, write_png
from sfseg.report.sending import send_picture

log = logging.getLogger(__name__)
TITLES = ("fake", "source model", "adapted")


class MakesFakes(Protocol):
    """What the callback asks of a method."""

    labels: LabelSpace
    device: torch.device

    def fake_noise(self, images: int, seed: int) -> Tensor: ...
    def draw_fakes(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class Fakes(Ordered):
    """Draws fakes of the same noise after every evaluation, for methods that make some.

    Files are ``<folder>/step_<step>.png``; loggers that take images get them too.

    Args:
        folder: where the pictures go.
        images: how many fakes.

    Raises:
        ValueError: fewer than one image.
        ConfigError: the method makes no fakes.
    """

    before = (WeightAveraging,)

    def __init__(self, folder: str, images: int = 4) -> None:
        if images < 1:
            raise ValueError(f"images must be at least 1, got {images}; ~callbacks.fakes is off")
        self.folder, self.images = Path(folder), images

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not hasattr(pl_module, "draw_fakes"):
            raise ConfigError(
                f"callbacks.fakes needs a method that makes some, such as method=sfda, got "
                f"{type(pl_module).__name__}; remove it with ~callbacks.fakes"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The source model is evaluated too, which makes none.
        if not hasattr(pl_module, "draw_fakes") or not trainer.is_global_zero:
            return
        method = cast(MakesFakes, pl_module)
        with trainer.precision_plugin.forward_context():
            drawn = method.draw_fakes(method.fake_noise(self.images, seed=0))
        picture = draw(*drawn, method.labels)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        write_png(path, picture)
        send_picture(trainer.loggers, "fakes", picture, trainer.global_step)
        log.info("%d fakes with predictions: %s", self.images, path)


def draw(fake: Tensor, fixed: Tensor, adapted: Tensor, labels: LabelSpace) -> Pixels:
    """A sheet of fakes (B, 3, H, W) in [0, 1] and predictions (B, H, W), with a legend below."""
    pixels = (fake.permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8).cpu().numpy()
    maps = [seen.to(torch.uint8).cpu().numpy() for seen in (fixed, adapted)]
    rows = [
        (f"noise {k}", (pixels[k], *(colourise(seen[k], labels.palette) for seen in maps)))
        for k in range(len(pixels))
    ]
    picture = sheet(rows, TITLES)
    return np.vstack([picture, legend(labels.classes, labels.palette, picture.shape[1])])
