"""Exponential moving average of the weights."""

from typing import Any, Protocol, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from sfseg.storage.lightning_state import count_as_averaged


class CanSkip(Protocol):
    """What the callback reads of a method."""

    is_skipped: bool


class WeightAverage(EMAWeightAveraging):
    """Lightning's average, which a skipped step does not move."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if cast(CanSkip, pl_module).is_skipped:
            count_as_averaged(self, trainer.global_step)
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
