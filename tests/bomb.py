"""A callback that does something to its own process, once, at a chosen moment."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


class Bomb(Callback):
    """Goes off in the first process to come there, which leaves a file behind.

    Args:
        marker: the file; where it is already, nothing happens.
        moment: ``train`` (the start of a batch), ``validation`` (of an evaluation batch in
            training), ``save`` (while a checkpoint is put together).
        step: iterations done by then, at least.
        what: name of a signal, or ``disk`` for one that takes small files only.
        rank: process it goes off in.
    """

    def __init__(
        self, marker: str, moment: str, step: int = 0, what: str = "SIGKILL", rank: int = 0
    ) -> None:
        self.marker, self.moment, self.step = Path(marker), moment, step
        self.what, self.rank = what, rank

    def go_off(self, trainer: Trainer, moment: str, done: int) -> None:
        here = trainer.global_rank == self.rank and moment == self.moment
        if not here or done < self.step or self.marker.exists():
            return
        self.marker.touch()
        if self.what == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        else:
            os.kill(os.getpid(), getattr(signal, self.what))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.go_off(trainer, "train", int(pl_module.iteration))  # type: ignore[arg-type]

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.go_off(trainer, "validation", int(pl_module.iteration))  # type: ignore[arg-type]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.go_off(trainer, "save", int(pl_module.iteration))  # type: ignore[arg-type]
