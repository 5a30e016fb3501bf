"""A callback that keeps what the first step computes, and processes that only act a rank."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sfseg.data.module import AdaptationData
from sfseg.methods import base, source_gta

SERVE = AdaptationData.train_dataloader
"""As it is before any callback is built: a command builds them twice."""


def same_draws() -> None:
    """Let all ranks draw the same, which differ otherwise, so that only the data tells them."""
    base.seed32 = lambda *key: 7  # type: ignore[assignment]
    source_gta.seed32 = lambda *key: 7  # type: ignore[assignment]
    source_gta.generator = lambda *key: np.random.default_rng(7)  # type: ignore[assignment]


def serve_as(rank: int) -> None:
    """Serve the training batches of one of two; all else, such as labelling, is one process's."""

    def acting(data: AdaptationData) -> Any:
        data._ranks = lambda: (rank, 2)  # type: ignore[method-assign]
        try:
            return SERVE(data)
        finally:
            del data._ranks

    AdaptationData.train_dataloader = acting  # type: ignore[method-assign]


class Gradients(Callback):
    """Writes losses and gradients of the first optimiser's first step to ``<folder>/rank<n>.pt``.

    Args:
        folder: made if need be.
        acts: rank of two whose data this lone process gets; None: its own.
    """

    def __init__(self, folder: str, acts: int | None = None) -> None:
        same_draws()
        self.folder, self.acts = Path(folder), acts
        self.kept: dict[str, Any] = {"loss": [], "gradients": {}}
        if acts is not None:
            serve_as(acts)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if pl_module.iteration == 1 and not self.kept["gradients"]:
            self.kept["loss"].append(float(loss))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # What follows another optimiser's step depends on the mean of all processes' gradients.
        if pl_module.iteration != 1 or self.kept["gradients"]:
            return
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.kept["gradients"].setdefault(name, parameter.grad.clone())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rank = trainer.global_rank if self.acts is None else self.acts
        torch.save(self.kept, self.folder / f"rank{rank}.pt")
