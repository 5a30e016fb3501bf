"""Panels: image, label, prediction and error of a few fixed evaluation images."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from sfseg.callbacks.base import scored
from sfseg.labels import LabelSpace
from sfseg.report.drawing import (
    CAPTION,
    Pixels,
    colourise,
    error_map,
    legend,
    sheet,
    tile_size,
    write_png,
)
from sfseg.report.sending import send_picture
from sfseg.storage.atomic import write_whole
from sfseg.types import IGNORE, Batch

log = logging.getLogger(__name__)
TITLES = ("image", "label", "prediction", "error (red)")
SHEET = "sheet.json"
Example = tuple[str, Pixels, Pixels, Pixels]
"""Domain, image (H, W, 3), label (H, W), prediction (H, W)."""


class Panels(Callback):
    """Draws every evaluation to ``<folder>/step_<step>.png`` and to loggers that take images.

    ``<folder>/sheet.json`` says where what is in these pictures, which are all alike.

    Args:
        folder: where the pictures go.
        images: number of images of each domain, evenly spread over its set.
        max_width: larger images are drawn smaller.
    """

    def __init__(self, folder: str, images: int = 4, max_width: int = 1024) -> None:
        if images < 1:
            raise ValueError(f"images must be at least 1, got {images}; ~callbacks.panels is off")
        if max_width < 1:
            raise ValueError(f"max_width must be at least 1 pixel, got {max_width}")
        self.folder = Path(folder)
        self.images = images
        self.max_width = max_width
        self.examples: list[Example] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.examples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero or not outputs:
            return
        batches = trainer.num_val_batches[dataloader_idx]
        if batch_idx not in np.linspace(0, int(batches) - 1, self.images).astype(int):
            return
        domain = scored(pl_module).eval_domains[dataloader_idx]
        self.examples.append((domain, *self._pixels(batch, outputs)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.examples:
            return
        labels = scored(pl_module).labels
        picture = draw(self.examples, labels)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        write_png(path, picture)
        self._describe(labels)
        for logger in trainer.loggers:
            self._send(logger, picture, labels, trainer.global_step)
        log.info("pictures of %d scenes with predictions: %s", len(self.examples), path)

    def _pixels(self, batch: Batch, outputs: Any) -> tuple[Pixels, Pixels, Pixels]:
        image = batch["image"][0].permute(1, 2, 0).cpu().numpy()
        label, prediction = batch["label"][0].cpu().numpy(), outputs["prediction"][0].cpu().numpy()
        height, width = label.shape
        if width > self.max_width:
            height, width = round(height * self.max_width / width), self.max_width
        size = (width, height)
        return (
            np.asarray(cv2.resize(image, size), dtype=np.uint8),
            np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8),
            np.asarray(
                cv2.resize(prediction, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8
            ),
        )

    def _describe(self, labels: LabelSpace) -> None:
        width, height = tile_size(self.examples[0][1])
        content = {
            "rows": [domain for domain, *_ in self.examples],
            "columns": list(TITLES),
            "caption": CAPTION,
            "tile": [height, width],
            "classes": list(labels.classes),
            "palette": [list(colour) for colour in labels.palette],
        }
        text = json.dumps(content)
        write_whole(self.folder / SHEET, lambda file: file.write(text.encode()))

    def _send(self, logger: Logger, picture: Pixels, labels: LabelSpace, step: int) -> None:
        if not isinstance(logger, WandbLogger):
            send_picture([logger], "panels", picture, step)
        else:
            names = dict(enumerate(labels.classes)) | {IGNORE: "void"}
            for domain in dict.fromkeys(example[0] for example in self.examples):
                own = [example for example in self.examples if example[0] == domain]
                logger.log_image(
                    key=f"panels/{domain}",
                    images=[image for _, image, _, _ in own],
                    masks=[
                        {
                            "prediction": {"mask_data": prediction, "class_labels": names},
                            "ground_truth": {"mask_data": label, "class_labels": names},
                        }
                        for _, _, label, prediction in own
                    ],
                )


def draw(examples: list[Example], labels: LabelSpace) -> Pixels:
    """A sheet of examples with the classes' legend below."""
    rows = [
        (
            domain,
            (
                image,
                colourise(label, labels.palette),
                colourise(prediction, labels.palette),
                error_map(prediction, label),
            ),
        )
        for domain, image, label, prediction in examples
    ]
    picture = sheet(rows, TITLES)
    return np.vstack([picture, legend(labels.classes, labels.palette, picture.shape[1])])
