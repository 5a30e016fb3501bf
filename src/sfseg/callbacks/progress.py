"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import logging
import time
from datetime import timedelta
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

log = logging.getLogger(__name__)


class ProgressReport(Callback):
    """Shows step, loss, rate and time left; no loss where no weight of the network trains.

    Args:
        seconds: time between plain lines where the output is no terminal, as under a batch
            system; a terminal's bar is redrawn twice a second.
        bar: True and False force the form; None looks at the output.
    """

    def __init__(self, seconds: float = 10.0, bar: bool | None = None) -> None:
        self.console = Console()
        self.uses_bar = self.console.is_terminal if bar is None else bar
        self.interval = 0.5 if self.uses_bar else seconds
        self.progress: Progress | None = None
        self.started = self.shown = 0.0
        self.first_step = 0
        self.trains = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.started = self.shown = time.monotonic()
        self.first_step = trainer.global_step
        network = cast(nn.Module, getattr(pl_module, "network", pl_module))
        self.trains = any(p.requires_grad for p in network.parameters())
        if self.uses_bar:
            self.progress = Progress(
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total} steps"),
                TextColumn("{task.fields[loss]}{task.fields[rate]:.2f} steps/s"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.progress.add_task("fit", total=trainer.max_steps, loss="", rate=0.0)
            self.progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        last = trainer.global_step >= trainer.max_steps > 0
        if not trainer.is_global_zero or (now - self.shown < self.interval and not last):
            return
        self.shown = now
        # Reading the loss waits for the device, hence only here and not in every step.
        loss = f"loss {float(torch.as_tensor(outputs['loss'])):.4f}  " if self.trains else ""
        rate = (trainer.global_step - self.first_step) / max(now - self.started, 1e-9)
        if self.progress is not None:
            self.progress.update(
                self.progress.task_ids[0], completed=trainer.global_step, loss=loss, rate=rate
            )
            return
        left = (trainer.max_steps - trainer.global_step) / rate if rate else 0.0
        log.info(
            "step %d/%d  %s%.2f steps/s  %s left",
            trainer.global_step,
            trainer.max_steps,
            loss,
            rate,
            timedelta(seconds=round(max(left, 0.0))),
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
