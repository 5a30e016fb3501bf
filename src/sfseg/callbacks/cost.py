"""What a run's training costs: time, memory, parameters."""

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import nn

from sfseg.optim import count_parameters
from sfseg.storage.atomic import write_whole

FILE = "cost.json"


class Cost(Callback):
    """Writes ``cost.json`` when training ends.

    ``minutes`` are of the training loop, from its first step to its last, without evaluations
    during training and without what precedes (the source model, its scores, its labels);
    checkpoints are included. ``cpu_minutes`` is what the process took of its processors in that
    time, which other work on the machine hardly changes. ``images_per_second`` counts training
    images of all processes in that time. ``peak_memory_mib`` is, on a GPU, what tensors took at
    most since training began (``memory: cuda``), else the largest resident size of the process
    (``memory: process``), where the system can forget it since training began, else since the
    process began; evaluations are included, loader processes are not.

    Parameters are the network's: neither teachers nor generators count.

    All is measured in the process at hand, the first of several: a run that was interrupted and
    went on counts the part since then, as its ``steps`` say.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / FILE
        self._begun = self._paused = self._pauses = np.zeros(2)
        self._first_step = self._images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        forget_peak(pl_module.device)
        self._first_step, self._images, self._pauses = trainer.global_step, 0, np.zeros(2)
        self._begun = now()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = now()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._pauses = self._pauses + now() - self._paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += sum(len(part["image"]) for part in batch.values())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        device = pl_module.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds, cpu_seconds = map(float, now() - self._begun - self._pauses)
        total, trainable = count_parameters(cast(nn.Module, pl_module.network).parameters())
        cost = {
            "minutes": seconds / 60,
            "cpu_minutes": cpu_seconds / 60,
            "steps": trainer.global_step - self._first_step,
            "images_per_second": self._images * trainer.world_size / seconds,
            "peak_memory_mib": peak_mib(device),
            "memory": "cuda" if device.type == "cuda" else "process",
            "parameters": total,
            "trainable_parameters": trainable,
            "processes": trainer.world_size,
        }
        text = json.dumps(cost, indent=2)
        write_whole(self.path, lambda file: file.write(text.encode()))


def now() -> NDArray[np.float64]:
    """Seconds of the clock and of the process's work on all processors, from some moment on."""
    return np.array([time.monotonic(), time.process_time()])


def forget_peak(device: torch.device) -> None:
    """Let :func:`peak_mib` count from now on, as far as the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Linux: "5" resets the peak resident size (proc_pid_clear_refs(5)).
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: torch.device) -> float:
    """The most memory that was in use, in MiB: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
