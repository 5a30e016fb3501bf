"""When a run is saved: every so many steps or minutes, and when its machine is taken away.

A checkpoint stands between two training batches: all that follows the first, its logged numbers
and its evaluation too, has happened, and nothing of the second. That is later than Lightning's own
callback saves, which would lose what is logged after it.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from sfseg.callbacks.base import trained
from sfseg.errors import PreemptedError
from sfseg.storage.lightning_state import between_batches, set_batches_that_stepped
from sfseg.storage.manifest import LAST

log = logging.getLogger(__name__)

GO_ON, SAVE, STOP = 0, 1, 2
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems send before they end a job; SLURM can be asked for the second."""


class Checkpoint(LightningCheckpoint):
    """Writes ``last.ckpt``, see :class:`sfseg.storage.checkpoint_files.CheckpointFiles`.

    SIGTERM and SIGUSR1 end training after the batch at hand, or during an evaluation at once (with
    several processes after it), with a checkpoint and :class:`PreemptedError`. After SIGUSR1 a
    SLURM job is also queued again.

    Args:
        folder: of the checkpoints.
        every_steps: iterations between them; None: only the other reasons.
        every_minutes: the same by the clock.

    Raises:
        ValueError: an interval that is not positive.
    """

    def __init__(
        self, folder: str, every_steps: int | None = 500, every_minutes: float | None = None
    ) -> None:
        for name, value in (("every_steps", every_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise ValueError(f"checkpoint.{name} must be positive or null, got {value}")
        self.path = Path(folder) / LAST
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._resumed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._take_signals()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._take_signals()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        done = trained(pl_module).iteration
        if done % trainer.accumulate_grad_batches:
            return
        if self._resumed:
            set_batches_that_stepped(trainer, done // trainer.accumulate_grad_batches)
        due = self._due(done, is_first=self._resumed)
        self._resumed = False
        if trainer.world_size > 1:
            due = int(trainer.strategy.reduce(torch.tensor(due), reduce_op="max"))
        if due != GO_ON:
            self.save(trainer)
        if due == STOP:
            self._stop(trainer, done)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._signal is None or trainer.world_size > 1:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            self.save(trainer)
            self._stop(trainer, trained(pl_module).iteration)
        raise PreemptedError(
            f"ended by signal {self._signal} during an evaluation; nothing is lost"
        )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        is_evaluating = trainer.state.fn == TrainerFn.FITTING and trainer.validating
        between_batches(checkpoint, is_evaluating=is_evaluating)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint; what has been logged so far goes to the disk before it."""
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _due(self, done: int, *, is_first: bool) -> int:
        if self._signal is not None:
            return STOP
        by_steps = self.every_steps is not None and done > 0 and done % self.every_steps == 0
        minutes = (time.monotonic() - self._saved_at) / 60
        by_clock = self.every_minutes is not None and minutes >= self.every_minutes
        return SAVE if (by_steps and not is_first) or by_clock else GO_ON

    def _take_signals(self) -> None:
        """From Lightning, which would exit with 0, and which gives them back at its end."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _stop(self, trainer: Trainer, done: int) -> None:
        if trainer.is_global_zero and self._signal == signal.SIGUSR1:
            requeue()
        name = "another process's signal" if self._signal is None else f"signal {self._signal}"
        raise PreemptedError(
            f"ended by {name} after step {done}, which is saved in {self.path}; the same command "
            "with resume=auto goes on from there"
        )


def requeue() -> None:
    """Queue this SLURM job again, where there is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    done = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        log.warning("SLURM does not queue job %s again: %s", job, done.stderr.strip())
