"""A step of the library beside a bare loop of the same passes: both timed in one run."""

import time
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from sfseg.types import Batch


class BareLoop(Protocol):
    """What a person would write without the library."""

    def step(self, source: Batch, target: Batch) -> None: ...


class InTurn(Callback):
    """Times the trainer's steps, from end to end, and runs one of the loop after each.

    ``ours`` and ``theirs`` are CPU seconds of each step.

    Args:
        bare: the loop; None times the trainer's steps alone.
    """

    def __init__(self, bare: BareLoop | None = None) -> None:
        self.bare = bare
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        middle = time.process_time()
        self.ours.append(middle - self.last)
        if self.bare is not None:
            self.bare.step(batch["source"], batch["target"])
            self.theirs.append(time.process_time() - middle)
        self.last = time.process_time()
