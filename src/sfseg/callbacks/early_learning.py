"""Tracks, class by class, how fast predictions learn the pseudo-labels they are trained on."""

import math
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Integer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from sfseg.callbacks.base import Trained, trained
from sfseg.errors import ConfigError
from sfseg.metrics import ConfusionMatrix
from sfseg.ops.early_learning import Curve, Fit, Rule, fit_curve, has_slowed, slowdown
from sfseg.storage.lightning_state import datamodule_of
from sfseg.types import Measured


@dataclass
class History:
    """Training IoU of one class since its labels were last corrected, or since the start.

    start: when that was, in passes over the target's images.
    t: passes since then at which it was measured.
    iou: in [0, 1]; NaN where neither labels nor predictions had the class.
    """

    start: float = 0.0
    t: list[float] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Measurement:
    """What is known of a class at one time.

    iteration: of training.
    passes: over the target's images.
    label: class id.
    iou: over the last ``window``.
    slowdown: of its curve, NaN where it has none.
    has_slowed: whether its labels shall be corrected.
    """

    iteration: int
    passes: float
    label: int
    iou: float
    slowdown: float
    has_slowed: bool


class EarlyLearning(Callback):
    """Training IoU against the pseudo-labels, its fitted curve, and which classes have slowed.

    For any method whose ``training_step`` returns ``prediction`` for images of the target that have
    a ``pseudo_label``. Times are in passes over the target's training images, so that settings
    hold for sets of any size: the published 200 steps of one image of 2,975, and its window of
    1,000 crops, are 0.067 and 0.336 passes.

    Args:
        every: passes between measurements.
        window: passes that the IoU is taken over, at least ``every``.
        curve: see :func:`sfseg.ops.early_learning.fit_curve`.
        rule: see :func:`sfseg.ops.early_learning.slowdown`. By ``release``, as in the published
            code, nothing is measured before the window is full, no class has slowed in the first
            pass, and a curve begins anew where its class's correction begins, not where it ends.
        threshold: slowdown from which a class is to be corrected.

    A step that ends with a measurement carries it; ``measurements`` holds all.

    Raises:
        ValueError: times that are not positive, or a threshold outside (0, 1].
    """

    def __init__(
        self,
        every: float = 0.067,
        window: float = 0.336,
        curve: Curve = "cubic",
        rule: Rule = "paper",
        threshold: float = 0.95,
    ) -> None:
        if not 0 < every <= window:
            raise ValueError(f"every must be in (0, window={window}] passes, got {every}")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}")
        self.every, self.window = every, window
        self.curve, self.rule, self.threshold = curve, rule, threshold
        self.histories: list[History] = []
        self.fits: list[Fit | None] = []
        self.measurements: list[Measurement] = []
        self._block: ConfusionMatrix | None = None
        self._restored: Tensor | None = None
        self._blocks: deque[tuple[int, Tensor]] = deque()
        # Of the block at hand, what each class had when its curve began anew.
        self._before = torch.zeros(2, 0, dtype=torch.int64)
        self._length = 1
        self._images = 0

    @property
    def passes(self) -> float:
        """Passes over the target's training images so far."""
        return self._images / self._length

    @property
    def restarts_at_opening(self) -> bool:
        """Whether a curve begins anew where the correction of its class does, not at its end."""
        return self.rule == "release"

    def restart(self, label: int) -> None:
        """Begin a new curve for a class, whose labels are others from now on.

        Its window is emptied: no point of the new curve is of an earlier visit. Those of the other
        classes keep all of theirs.
        """
        self.histories[label] = History(start=self.passes)
        self.fits[label] = None
        for _, block in self._blocks:
            block[:, label] = 0
        self._before[:, label] = right_and_union(self.block.counts)[:, label]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        labels = getattr(datamodule_of(trainer), "pseudo_labels", None)
        if labels is None:
            raise ConfigError(
                "callbacks.early_learning needs a method that trains on pseudo-labels, got "
                f"{type(pl_module).__name__}; remove it with ~callbacks.early_learning"
            )
        self._length = len(labels)
        self._strategy = trainer.strategy
        classes = trained(pl_module).labels.num_classes
        self._block = ConfusionMatrix(classes).to(pl_module.device)
        if not self._before.numel() or not trainer.is_global_zero:
            self._before = torch.zeros(2, classes, dtype=torch.int64)
        self._before = self._before.to(pl_module.device)
        if self._restored is not None and trainer.is_global_zero:
            self._block.counts += self._restored.to(pl_module.device)
        if not self.histories:
            self.histories = [History() for _ in range(classes)]
            self.fits = [None] * classes

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        method = trained(pl_module)
        if method.step.is_skipped:
            return
        label = batch["target"]["pseudo_label"]
        self.block.update(outputs["prediction"], label)
        # Multiples of `every`, counted from the start: no batch size makes them drift.
        before, self._images = self._images, self._images + len(label) * trainer.world_size
        images = self.every * self._length
        if self._images // images > before // images:
            self._measure(trainer, method)

    def _measure(self, trainer: Trainer, method: Trained) -> None:
        counts = right_and_union(self.block.counts) - self._before
        self._blocks.append((self._images, over_all_processes(counts, self._strategy)))
        self.block.reset()
        self._before.zero_()
        # Without its first block, the window begins where that one ends.
        least = self._images - self.window * self._length
        while len(self._blocks) > 1 and self._blocks[0][0] <= least:
            self._blocks.popleft()
        # Full to the nearest measurement: 0.336 passes are five times 0.067.
        if self.rule == "release" and self.passes < self.window - self.every / 2:
            return
        right, union = torch.stack([block for _, block in self._blocks]).sum(dim=0).double()
        iou: list[float] = (right / union).tolist()  # NaN for a union of 0
        taken = [self._take(k, value, method.step.iteration) for k, value in enumerate(iou)]
        self.measurements += taken
        method.step.early_learning = Measured(frozenset(m.label for m in taken if m.has_slowed))
        names = method.labels.classes
        values = {f"early_learning/IoU/{names[m.label]}": m.iou for m in taken}
        values |= {f"early_learning/slowdown/{names[m.label]}": m.slowdown for m in taken}
        for logger in trainer.loggers:
            logger.log_metrics(
                {name: value for name, value in values.items() if math.isfinite(value)},
                # As Lightning counts the rows of this step: from 0.
                step=trainer.global_step - 1,
            )

    def _take(self, label: int, iou: float, iteration: int) -> Measurement:
        """Add a point to a class's curve and see what that says."""
        history = self.histories[label]
        history.t.append(self.passes - history.start)
        history.iou.append(iou)
        t, known = np.array(history.t), np.isfinite(history.iou)
        fit = fit_curve(t, np.array(history.iou), curve=self.curve)
        self.fits[label] = fit
        # Where the class was absent, the curve is not known but extrapolated.
        first, last = (t[known][0], t[known][-1]) if known.any() else (math.nan, math.nan)
        change = slowdown(fit, first=first, last=last, rule=self.rule)
        slow = has_slowed(change, threshold=self.threshold, rule=self.rule)
        if self.rule == "release":
            slow = slow and self.passes > 1
        return Measurement(iteration, self.passes, label, iou, change, slow)

    @property
    def blocks(self) -> int:
        """How many stretches between measurements the window spans."""
        return len(self._blocks)

    @property
    def block(self) -> ConfusionMatrix:
        """Counts since the last measurement, of this process."""
        assert self._block is not None, "made when fitting starts"
        return self._block

    def state_dict(self) -> dict[str, Any]:
        return {
            "histories": [asdict(history) for history in self.histories],
            "measurements": [asdict(m) for m in self.measurements],
            "images": self._images,
            "blocks": [[images, block.clone()] for images, block in self._blocks],
            # Of all processes: the first one goes on with it.
            "block": over_all_processes(self.block.counts, self._strategy),
            "before": over_all_processes(self._before, self._strategy),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.histories = [History(**kept) for kept in state_dict["histories"]]
        self.fits = [None] * len(self.histories)
        self.measurements = [Measurement(**kept) for kept in state_dict["measurements"]]
        self._images = state_dict["images"]
        # Checkpoints of earlier versions hold all counts (K, K) of a block.
        is_older = "before" not in state_dict
        self._blocks = deque(
            (images, right_and_union(block) if is_older else block.clone())
            for images, block in state_dict["blocks"]
        )
        self._restored = state_dict["block"]
        if not is_older:
            self._before = state_dict["before"].clone()


def over_all_processes(counts: Tensor, strategy: Strategy) -> Tensor:
    """Sum of every process's counts, in memory of its own on the CPU."""
    total = strategy.reduce(counts.clone(), reduce_op="sum")
    return cast(Tensor, total).cpu()


def right_and_union(counts: Integer[Tensor, "K K"]) -> Integer[Tensor, "2 K"]:
    """Pixels of every class from counts by (label, prediction): in both, and in either."""
    right = counts.diagonal()
    return torch.stack([right, counts.sum(dim=0) + counts.sum(dim=1) - right])
