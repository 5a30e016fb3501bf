"""Replaces pseudo-labels of classes whose early learning is over by confident predictions."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sfseg.callbacks.base import trained
from sfseg.callbacks.early_learning import EarlyLearning, over_all_processes
from sfseg.callbacks.growth import Growth
from sfseg.callbacks.last_visits import LastVisits
from sfseg.callbacks.openings import Opening, summary
from sfseg.callbacks.order import Ordered
from sfseg.callbacks.whole_images import whole_images
from sfseg.errors import DataError
from sfseg.ops.confidence import BINS, class_quantiles, confidence_histogram
from sfseg.ops.early_learning import Rule
from sfseg.ops.inference import Inference
from sfseg.ops.padding import HEIGHT, WIDTH, ignore_padding, shown_pixels
from sfseg.ops.processes import of_each_process
from sfseg.storage.lightning_state import datamodule_of
from sfseg.types import IGNORE

log = logging.getLogger(__name__)
Mode = Literal["online", "offline", "elr", "none"]
Pixels = np.ndarray


class Changed(Protocol):
    """Pixels of an image whose pseudo-label has changed."""

    where: tuple[Pixels, Pixels]
    before: Pixels
    after: Pixels


class PseudoLabelData(Protocol):
    """What the callback asks of the DataModule."""

    def correct_pseudo_label(
        self, index: int, geometry: Sequence[int], proposal: Pixels
    ) -> Changed: ...
    def crop_pseudo_labels(self, index: Tensor, geometry: Tensor) -> Tensor: ...
    def count_pseudo_labels(self) -> Tensor: ...
    def true_label(self, index: int) -> Pixels | None: ...
    def labelling_dataloader(self) -> Any: ...


class LabelCorrection(Ordered):
    """Pixels predicted with confidence as a class that has slowed take that class as label.

    While a class is open, a pixel takes it if its prediction is more confident than a share of the
    last predictions of that class. For methods whose ``training_step`` returns ``prediction`` and
    ``confidence``.

    Args:
        mode: ``online`` corrects the crops that training visits; ``offline`` predicts all images
            at once when a class slows (as ADELE does at the end of an epoch); ``none`` and
            ``elr``, whose correction is a loss, leave the labels alone.
        quantile: share of a class's predictions that are not confident enough.
        open_for: passes over the target's images for which a class stays open.
        rule: ``paper`` takes, after a step, what it has predicted; ``release``, before a step, what
            the visit before has predicted of the image, see :mod:`sfseg.callbacks.last_visits`.
        max_growth: times the pixels that the source model gave a class that its labels may come to
            cover; what would take it further is refused. None: any number.
        measure: count how often true labels, where there are any, agree; they are used for nothing
            else.

    Raises:
        ValueError: an unknown mode or rule, a quantile outside [0, 1), no time, a growth below 1.
    """

    needs = (EarlyLearning,)

    def __init__(
        self,
        mode: Mode = "online",
        quantile: float = 0.8,
        open_for: float = 1.0,
        rule: Rule = "paper",
        max_growth: float | None = 1.5,
        *,
        measure: bool = True,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
        if not 0 <= quantile < 1:
            raise ValueError(f"quantile must be in [0, 1), got {quantile}")
        if open_for <= 0:
            raise ValueError(f"open_for must be positive, got {open_for} passes")
        self.mode, self.quantile = mode, quantile
        self.open_for, self.rule, self.measure = open_for, rule, measure
        self.growth = Growth(max_growth)
        self.looks_back = rule == "release" and mode == "online"
        self.openings: list[Opening] = []
        self.open: dict[int, Opening] = {}
        self._histogram = torch.zeros(0, BINS, dtype=torch.int64)
        self._histograms: deque[Tensor] = deque()
        self._threshold: Tensor | None = None
        self._visits = LastVisits()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.early = self.needed(EarlyLearning)
        self.labels = trained(pl_module).labels
        self.data: PseudoLabelData = datamodule_of(trainer)
        if not self._histogram.numel():
            self._histogram = torch.zeros(self.labels.num_classes, BINS, dtype=torch.int64)
        if not trainer.is_global_zero:
            self._histogram.zero_()
        self._histogram = self._histogram.to(pl_module.device)
        self._visits.begin(
            self.labels.num_classes, pl_module.device, is_keeper=trainer.is_global_zero
        )
        if self._threshold is not None:
            self._threshold = self._threshold.to(pl_module.device)
        if trainer.is_global_zero and self.mode in ("online", "offline"):
            self.growth.begin(self.data.count_pseudo_labels)
        self._strategy = trainer.strategy

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where it looks back, write what the visits before this one said, and show it the step."""
        if not (self.looks_back and self.open):
            return
        target = batch["target"]
        images = torch.cat(of_each_process(target["index"])).tolist()
        for image in images if trainer.is_global_zero else []:
            self._correct_visited(image)
        self._wait(trainer)
        label = self.data.crop_pseudo_labels(target["index"], target["geometry"])
        target["pseudo_label"] = label.to(target["pseudo_label"].device, non_blocking=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, target = trained(pl_module).step, batch["target"]
        if self.mode in ("none", "elr") or step.is_skipped:
            return
        prediction, confidence = outputs["prediction"], outputs["confidence"]
        prediction = ignore_padding(prediction, shown_pixels(target["geometry"], prediction))
        parts = (target["index"], target["geometry"], prediction, confidence)
        if self.looks_back:
            everyone = list(zip(*map(of_each_process, parts), strict=True))
            for visits in everyone if trainer.is_global_zero else []:
                self._visits.keep(*visits)
        else:
            self._histogram += confidence_histogram(
                confidence, prediction, num_classes=self.labels.num_classes
            )
        if step.early_learning is not None:
            if self.looks_back:
                self._close()
            self._refresh()
            self._open(trainer, pl_module, step.iteration, step.early_learning.slowed)
        if not self.looks_back:
            self._correct_crops(trainer, parts)
            self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.mode in ("online", "offline"):
            log.info("%s", summary(self.openings, self.labels.num_classes))

    def _refresh(self) -> None:
        """Thresholds of the window that ends now, or of the last visits, over all processes."""
        if self.looks_back:
            counts = over_all_processes(self._visits.histogram, self._strategy)
            # Rounded down to a bin's edge: in its last one, where the published code cuts
            # confidences off, all are equal.
            exact = class_quantiles(counts, self.quantile)
            self._threshold = ((exact * BINS).floor() / BINS).to(self._histogram.device)
            return
        self._histograms.append(over_all_processes(self._histogram, self._strategy))
        self._histogram.zero_()
        while len(self._histograms) > self.early.blocks:
            self._histograms.popleft()
        total = torch.stack(list(self._histograms)).sum(dim=0)
        self._threshold = class_quantiles(total, self.quantile).to(self._histogram.device)

    def _open(
        self, trainer: Trainer, pl_module: LightningModule, iteration: int, slowed: frozenset[int]
    ) -> None:
        new = sorted(slowed - set(self.open))
        for label in new:
            opening = Opening(label, iteration, self.early.passes)
            self.openings.append(opening)
            self.open[label] = opening
            if self.early.restarts_at_opening:
                self.early.restart(label)
        if new and trainer.is_global_zero:
            names = ", ".join(self.labels.classes[label] for label in new)
            log.info("label correction: %s from step %d", names, trainer.global_step)
        if new and self.mode == "offline":
            self._correct_all(trainer, pl_module)

    def _close(self) -> None:
        over = self.open_for if self.mode == "online" else 0.0
        for label, opening in list(self.open.items()):
            if self.early.passes - opening.passes >= over:
                opening.closed = self.early.passes
                del self.open[label]
                if not self.early.restarts_at_opening:
                    self.early.restart(label)

    def _correct_crops(
        self, trainer: Trainer, parts: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> None:
        """Write what this step says of the images of all processes."""
        if self.mode == "online" and self.open:
            everyone = list(zip(*map(of_each_process, parts), strict=True))
            if trainer.is_global_zero:
                # All before the first is written: what may be must not depend on how many they are.
                proposals = [self._proposal(*predicted) for _, _, *predicted in everyone]
                for (index, geometry, *_), proposal in zip(everyone, proposals, strict=True):
                    self._write(index, geometry, proposal)
            self._wait(trainer)

    def _wait(self, trainer: Trainer) -> None:
        """For the first process: the next step of any one may read what it has written."""
        if trainer.world_size > 1:
            trainer.strategy.barrier("label correction")

    def _correct_visited(self, image: int) -> None:
        """Write what the last visit of an image predicted, in its crop."""
        visit = self._visits.read(image)
        if visit is None:
            return
        index, geometry = torch.tensor([image]), visit.geometry[None]
        label = self.data.crop_pseudo_labels(index, geometry)
        if np.isin(label.numpy(), list(self.open)).any():
            device = self._histogram.device
            proposal = self._proposal(visit.prediction.to(device), visit.confidence.to(device))
            self._write(index, geometry, proposal[None])

    def _proposal(
        self, prediction: UInt8[Tensor, "*shape"], confidence: Float[Tensor, "*shape"]
    ) -> UInt8[Tensor, "*shape"]:
        """The prediction where it is confident and its class open, IGNORE elsewhere."""
        assert self._threshold is not None, "open classes have been measured"
        limit = self._threshold.new_full((IGNORE + 1,), torch.inf)
        for label in self.open:
            limit[label] = self._threshold[label]
        # NaN, the threshold of a class without predictions, is reached by nothing.
        compare = torch.ge if self.rule == "release" else torch.gt
        chosen: Bool[Tensor, "*shape"] = compare(confidence, limit[prediction.int()])
        for label, opening in self.open.items():
            if self.growth.is_over(label):
                chosen = self._refuse(opening, chosen, prediction)
        return torch.where(chosen, prediction, IGNORE)

    def _refuse(
        self,
        opening: Opening,
        chosen: Bool[Tensor, "*shape"],
        prediction: UInt8[Tensor, "*shape"],
    ) -> Bool[Tensor, "*shape"]:
        """Leave out pixels of a class whose labels have spread too far; log the first of them."""
        refused = chosen & (prediction == opening.label)
        count = int(refused.sum())
        if count and not opening.refused:
            log.warning(
                "label correction: %s takes no more pixels: its labels cover %.1f times what the "
                "source model gave it (callbacks.label_correction.max_growth=%g)",
                self.labels.classes[opening.label],
                self.growth.of(opening.label),
                self.growth.most,
            )
        opening.refused += count
        return chosen & ~refused

    def _correct_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict every training image, whole, and write what is confident."""
        # As in training steps, whose confidences the thresholds come from.
        predict = Inference(scales=trained(pl_module).scales)
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            batches = self.data.labelling_dataloader()
            for index, geometry, *found in whole_images(pl_module, batches, predict):
                if trainer.is_global_zero:
                    self._write(index, geometry, self._proposal(*found))
        pl_module.train()
        self._wait(trainer)

    def _write(self, index: Tensor, geometry: Tensor, proposal: Tensor) -> None:
        """Change the labels of some images, and count the changes.

        What a proposal says of padding is not looked at.
        """
        rows = zip(index.tolist(), geometry.tolist(), proposal.cpu().numpy(), strict=True)
        for image, place, padded in rows:
            pixels = padded[: place[HEIGHT], : place[WIDTH]]
            if (pixels != IGNORE).any():
                self._count(image, self.data.correct_pseudo_label(image, place, pixels))

    def _true_label(self, image: int) -> Pixels | None:
        if not self.measure:
            return None
        try:
            return self.data.true_label(image)
        except DataError as error:
            # The run does without it: nothing but these counts comes from true labels.
            log.warning("label correction is not measured any more: %s", error)
            self.measure = False
            return None

    def _count(self, image: int, change: Changed) -> None:
        self.growth.move(change.before, change.after)
        truth = self._true_label(image) if len(change.after) else None
        for label in np.unique(change.after).tolist():
            opening, mine = self.open[label], change.after == label
            opening.changed += int(mine.sum())
            if truth is not None:
                true = truth[change.where][mine]
                opening.known += int((true != IGNORE).sum())
                opening.right_before += int((true == change.before[mine])[true != IGNORE].sum())
                opening.right_after += int((true == label).sum())

    def state_dict(self) -> dict[str, Any]:
        return {
            "openings": [asdict(opening) for opening in self.openings],
            "open": list(self.open),
            # Of all processes: the first one goes on with it.
            "histogram": over_all_processes(self._histogram, self._strategy),
            "histograms": list(self._histograms),
            "threshold": None if self._threshold is None else self._threshold.cpu(),
            "visits": self._visits.state_dict(),
            "growth": self.growth.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.openings = [Opening(**kept) for kept in state_dict["openings"]]
        last = {opening.label: opening for opening in self.openings}
        self.open = {label: last[label] for label in state_dict["open"]}
        self._histogram = state_dict["histogram"]
        self._histograms = deque(state_dict["histograms"])
        self._threshold = state_dict["threshold"]
        self._visits.load_state_dict(state_dict["visits"])
        if "growth" in state_dict:  # not in those of earlier versions
            self.growth.load_state_dict(state_dict["growth"])
