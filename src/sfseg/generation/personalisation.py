"""A personalisation from its first step to its last, whatever kills it on the way."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from rich.progress import track
from torch import Tensor

from sfseg.generation.begun import entries, kept_models, other_pictures, require_ahead
from sfseg.generation.crops import Crops
from sfseg.generation.dreambooth import DreamBooth
from sfseg.generation.kept import keep, step_folder
from sfseg.generation.samples import draw_progress
from sfseg.report.drawing import write_png
from sfseg.report.sending import send_picture
from sfseg.storage.checkpoint_files import CheckpointFiles
from sfseg.storage.manifest import LAST, newest

log = logging.getLogger(__name__)

STATE = "state"
"""Folder of what a run goes on from: weights that are trained, and the optimiser's moments."""


class Personalisation:
    """Training that repeats no step it has done, and none differently.

    Whenever it is killed, it goes on from the last state that was saved, and ends with the same
    weights, bit for bit, as one that was not.

    Args:
        training: of the model.
        places: pictures to learn.
        others: pictures of prior preservation; None without it.
        out: the run's folder.

    Raises:
        ConfigError: the run has done more steps, or has begun with other pictures or weights.
    """

    def __init__(
        self, training: DreamBooth, places: Crops, others: Crops | None, out: Path
    ) -> None:
        self.training, self.places, self.others, self.out = training, places, others, out
        self.settings = training.settings
        self.done = self._restored()
        require_ahead(out, self.settings.steps, self.done)

    def run(self, loggers: Sequence[Logger]) -> None:
        """Train up to ``settings.steps``; models are kept on the way and at the end.

        Raises:
            NumericError: the training diverges; the last saved state stays.
            OutputError: the disk takes nothing.
        """
        if self.done:
            log.info("going on after step %d of %d", self.done, self.settings.steps)
        elif kept_models(self.out):
            log.warning(
                "the run in %s has no state to go on from, so its steps are trained again from the "
                "first; models that are kept stay as they are", self.out,
            )  # fmt: skip
        remaining = range(self.done, self.settings.steps)
        for number in track(remaining, "personalising", total=len(remaining)):
            loss = self.training.step(number, self.images(number))
            self.done = number + 1
            for logger in loggers:
                logger.log_metrics({"train/loss": loss}, number)
            if self._is_due(self.settings.samples.every):
                self._draw(loggers)
            # The model before the state: a run that goes on after a step has kept its model.
            if self._is_due(self.settings.keep_every) or self.done == self.settings.steps:
                self._keep()
            if self._is_due(self.settings.save_every) or self.done == self.settings.steps:
                self._save(loggers)

    def images(self, number: int) -> Tensor:
        """The crops of a step, as :meth:`DreamBooth.loss` expects them."""
        size = self.settings.batch_size
        sets = [self.places] if self.others is None else [self.places, self.others]
        return torch.cat([crops.batch(number * size, size) for crops in sets])

    def record(self) -> dict[str, Any]:
        """What a kept model is, for those who find it."""
        settings = self.settings
        lora = settings.lora
        others = self.others
        given = None if others is None or self._are_drawn(others) else entries(others)
        return {
            "base_model": settings.model,
            "method": "dreambooth" if lora is None else "lora",
            "lora": None if lora is None else {"rank": lora.rank, "alpha": lora.alpha},
            "train_text_encoder": settings.train_text_encoder,
            "prompt": settings.prompt,
            "identifier": settings.identifier,
            "steps": self.done,
            "seed": settings.seed,
            "crop": settings.crop,
            "lr": settings.lr,
            "prior_weight": settings.prior.weight,
            "images": entries(self.places),
            "prior_images": given,
        }

    def _are_drawn(self, others: Crops) -> bool:
        """Whether the model has drawn them: they follow from the settings then."""
        return others.paths[0].is_relative_to(self.out)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _keep(self) -> None:
        folder = step_folder(self.out, self.done)
        keep(self.training, folder, self.record())
        log.info("the model after %d steps: %s", self.done, folder)

    def _draw(self, loggers: Sequence[Logger]) -> None:
        self.training.set_training(False)
        picture = draw_progress(self.training.pipeline, self.settings)
        write_png(self.out / "samples" / f"step_{self.done:06d}.png", picture)
        send_picture(loggers, "samples", picture, self.done - 1)

    def _save(self, loggers: Sequence[Logger]) -> None:
        for logger in loggers:
            logger.save()
        state = {**self.training.state(), "global_step": self.done, "images": self._digests()}
        CheckpointFiles().save_checkpoint(state, self.out / STATE / LAST)

    def _digests(self) -> list[str]:
        others = [] if self.others is None else self.others.digests
        return [*self.places.digests, *others]

    def _restored(self) -> int:
        """Steps that are done already, and whose weights are loaded.

        Raises:
            ConfigError: states are there, and none is whole, or of other pictures.
        """
        path = newest(self.out / STATE) if (self.out / STATE).is_dir() else None
        if path is None:
            return 0
        state = CheckpointFiles().load_checkpoint(path)
        if state["images"] != self._digests():
            raise other_pictures(self.out)
        self.training.load_state(state)
        return int(state["global_step"])
