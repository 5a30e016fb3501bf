"""A model whose every prediction is known in advance, for tests of what watches a training."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.methods.base import Method
from sfseg.metrics import ConfusionMatrix, Scores
from sfseg.ops.inference import Inference
from sfseg.storage.checkpoint_files import CheckpointFiles

LABELS = LabelSpace("three", ("road", "car", "sky"), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
COLOURS = [(0.9, 0, 0), (0, 0.6, 0), (0, 0, 0.3), (0, 0, 0.3)]
"""Of an image's columns; the largest channel is the class."""
TRUTH = [0, 1, 2, 2]
IGNORED = [
    "ignore:The .* does not have many workers",
    "ignore:Found .* in eval mode at the start of training",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
]
"""Warnings of Lightning that say nothing about the test."""


class Channels(nn.Module):
    """Logits are ten times the channels, and a bias; it draws random numbers, and uses none."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, image: Tensor) -> Tensor:
        torch.rand(1)
        pixels = image.float() / 255 if image.dtype == torch.uint8 else image
        return 10 * pixels + self.bias[:, None, None]


class Sinking(Method):
    """Sets the bias of ``road`` to the next number of a path in every step."""

    path: Sequence[float]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            self.network.bias[0] = self.path[self.iteration - 1]
        return {"loss": self.total({"nothing": 0 * self.network.bias.sum()})}


class Images(LightningDataModule):
    """Equal images of :data:`COLOURS`, some of which cannot be read."""

    def __init__(self, count: int = 4, broken: Sequence[int] = (), void: bool = False) -> None:
        super().__init__()
        self.count, self.broken, self.void = count, broken, void
        self.read: list[int] = []

    def __getitem__(self, ticket: tuple[int, int]) -> dict[str, Tensor]:
        _, index = ticket
        if index in self.broken:
            raise DataError(f"image {index} is broken")
        self.read.append(index)
        return {"image": batch()["image"][0]}

    def train_dataloader(self) -> Any:
        return {"target": DataLoader([batch()] * 99, batch_size=None)}

    def val_dataloader(self) -> Any:
        return DataLoader([batch(void=self.void)], batch_size=None)

    def labelling_dataloader(self) -> Any:
        return SimpleNamespace(dataset=self, sampler=SimpleNamespace(every=range(self.count)))


def batch(*, void: bool = False) -> dict[str, Tensor]:
    pixels = torch.tensor(COLOURS).T[None, :, None].expand(1, 3, 2, 4) * 255
    label = torch.tensor(TRUTH, dtype=torch.uint8).expand(1, 2, 4)
    return {
        "image": pixels.round().to(torch.uint8),
        "label": torch.full_like(label, 255) if void else label.clone(),
    }


def predicted(bias: float, gamma: float = 1.0) -> list[int]:
    """Class of every column."""
    columns = [[round(255 * c) / 255 for c in colour] for colour in COLOURS]
    logits = [[10 * r**gamma + bias, 10 * g**gamma, 10 * b**gamma] for r, g, b in columns]
    return [max(range(3), key=row.__getitem__) for row in logits]


def scores(bias: float, labels: LabelSpace = LABELS) -> Scores:
    """Of the labels."""
    matrix = ConfusionMatrix(labels.num_classes)
    truth, guess = (torch.tensor(row, dtype=torch.uint8) for row in (TRUTH, predicted(bias)))
    matrix.update(guess, truth)
    return Scores.of(matrix.counts, labels)


def method(path: Sequence[float], needs: Sequence[str] = ("target", "source_model")) -> Sinking:
    made = Sinking(
        network=Channels(), labels=LABELS, eval_domains=["target"], inference=Inference(flip=True),
        source_adapter=None, adapter=None, plan={}, needs=needs, lr=1.0, weight_decay=0.0,
        parameter_rules=[], optimizer=partial(torch.optim.SGD, lr=1.0),
        schedule=partial(LambdaLR, lr_lambda=lambda _: 1.0), log_every=1, seed=0,
    )  # fmt: skip
    made.path = path
    made.source_scores = {"target": scores(0.0)}
    return made


def trainer(callbacks: Sequence[Callback], steps: int, every: int = 1, **more: Any) -> Trainer:
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    return Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=saves,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        val_check_interval=every, check_val_every_n_epoch=None, callbacks=list(callbacks),
        plugins=[CheckpointFiles()], default_root_dir=str(Path.cwd()), **more,
    )  # fmt: skip
