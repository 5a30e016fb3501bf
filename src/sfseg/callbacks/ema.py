"""Exponential moving average of the weights."""

from typing import Any, Protocol, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class CanSkip(Protocol):
    """What the callback reads of a method."""

    is_skipped: bool


class WeightAverage(EMAWeightAveraging):
    """Lightning's average, which a skipped step does not move."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if cast(CanSkip, pl_module).is_skipped:
            self._latest_update_step = trainer.global_step
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
