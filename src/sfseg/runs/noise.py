"""Training steps on noise: what a run's settings cost, without its data or weights."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, IterableDataset

from sfseg.callbacks.cost import forget_peak, peak_mib
from sfseg.config.composition import build
from sfseg.data.geometry import Geometry, Size
from sfseg.labels import LabelSpace
from sfseg.methods.base import Method
from sfseg.optim import count_parameters
from sfseg.runs.method import built_method
from sfseg.runs.preparation import network_of
from sfseg.types import IGNORE, Batch, TrainingBatch


class Noise(IterableDataset[TrainingBatch]):
    """Endless batches of random pixels and labels, made beforehand so as not to be timed.

    Args:
        needs: what the method asks for; labels of the target are void without target_labels.
        batch: images of each domain.
        sizes: height and width of the crops of ``source`` and ``target``.
        classes: number of classes of the labels.
    """

    def __init__(
        self, needs: Sequence[str], batch: int, sizes: Mapping[str, Size], classes: int
    ) -> None:
        domains = [d for d in ("source", "target") if {d, f"{d}_labels"} & set(needs)]
        void = set() if "target_labels" in needs else {"target"}
        random = torch.Generator().manual_seed(0)
        self.batches: list[TrainingBatch] = [
            {d: noise(batch, sizes[d], classes, d in void, random) for d in domains}
            for _ in range(2)
        ]

    def __iter__(self) -> Iterator[TrainingBatch]:
        return itertools.cycle(self.batches)


def noise(batch: int, size: Size, classes: int, is_void: bool, random: torch.Generator) -> Batch:
    """Random images with random labels, or with void ones and random pseudo-labels."""
    shape = (batch, *size)
    label = torch.randint(classes, shape, generator=random, dtype=torch.uint8)
    return {
        "image": torch.randint(256, (batch, 3, *size), generator=random, dtype=torch.uint8),
        "label": torch.full_like(label, IGNORE) if is_void else label,
        "index": torch.arange(batch),
        "geometry": torch.tensor([Geometry.whole(size)] * batch),
        "pseudo_label": label,
    }


@dataclass(frozen=True)
class Measured:
    """What training steps took.

    parameters, trainable: of the network.
    seconds: of a step.
    images_per_second: of all domains.
    peak_mib: on a GPU what tensors took at most, else what the process grew by, in MiB.
    device: where.
    """

    parameters: int
    trainable: int
    seconds: float
    images_per_second: float
    peak_mib: float
    device: str


class Stopwatch(Callback):
    """Seconds and images of the batches after the first ``warm_up``."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds = 0.0
        self.images = self.steps = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.warm_up:
            self.seconds = -now(pl_module.device)
        if batch_idx >= self.warm_up:
            self.steps += 1
            self.images += sum(len(domain["image"]) for domain in batch.values())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += now(pl_module.device)


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def without_weights(cfg: DictConfig) -> None:
    """Let networks begin with random weights, also those that a method keeps near to."""
    OmegaConf.update(cfg, "backbone.pretrained", True)
    OmegaConf.update(
        cfg, "backbone.network", {"pretrained": False, "weights": None, "checkpoint": None}
    )


def measure(
    cfg: DictConfig, noise: Noise, labels: LabelSpace, *, steps: int, warm_up: int
) -> Measured:
    """Train on noise under a trainer like the run's, with the method's optimiser and schedule.

    Args:
        cfg: of ``sfseg-train``; networks get random weights.
        noise: batches.
        labels: of the task.
        steps: batches that are timed.
        warm_up: batches before them.

    Raises:
        ConfigError: the method refuses a setting.
    """
    without_weights(cfg)
    seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    stopwatch = Stopwatch(warm_up)
    trainer: Trainer = build(
        cfg.trainer,
        logger=False,
        callbacks=[stopwatch],
        enable_checkpointing=False,
        # Lightning's steps are those of optimisers; a method may have several.
        max_steps=-1,
        max_epochs=1,
        limit_train_batches=warm_up + steps,
        limit_val_batches=0,
    )
    device = trainer.strategy.root_device
    forget_peak(device)
    before = peak_mib(device)
    method: Method = built_method(
        cfg,
        labels,
        network=network_of(cfg, labels, None),
        eval_domains=("target",),
        inference=build(cfg.evaluation),
    )
    trainer.fit(method, DataLoader(cast(Any, noise), batch_size=None))
    total, trainable = count_parameters(method.network.parameters())
    return Measured(
        parameters=total,
        trainable=trainable,
        seconds=stopwatch.seconds / stopwatch.steps,
        images_per_second=stopwatch.images / stopwatch.seconds,
        peak_mib=peak_mib(device) - before,
        device=str(device),
    )
