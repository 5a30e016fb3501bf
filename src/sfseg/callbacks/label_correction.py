"""Replaces pseudo-labels of classes whose early learning is over by confident predictions."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sfseg.callbacks.base import trained
from sfseg.callbacks.early_learning import EarlyLearning, over_all_processes
from sfseg.callbacks.order import Ordered
from sfseg.errors import DataError
from sfseg.ops.confidence import BINS, class_quantiles, confidence_histogram
from sfseg.ops.early_learning import Rule
from sfseg.ops.inference import Inference
from sfseg.ops.padding import HEIGHT, WIDTH, ignore_padding, shown_pixels
from sfseg.ops.processes import of_each_process
from sfseg.storage.lightning_state import datamodule_of
from sfseg.types import IGNORE, Batch

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
    def true_label(self, index: int) -> Pixels | None: ...
    def labelling_dataloader(self) -> Any: ...


@dataclass
class Opening:
    """A time in which the labels of a class are corrected.

    label: class id.
    iteration: of training at which it began.
    passes: over the target's images until then.
    closed: passes at which it ended; None while it lasts.
    changed: pixels that became this class.
    known: of these, pixels whose true class is known; for the two counts only.
    right_before: of the known ones, those whose label was right.
    right_after: those whose label is.
    """

    label: int
    iteration: int
    passes: float
    closed: float | None = None
    changed: int = 0
    known: int = 0
    right_before: int = 0
    right_after: int = 0


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
        rule: ``paper`` takes the prediction of this visit of an image, ``release`` that of the one
            before, in the crop it was made in, as the published code does.
        measure: count how often true labels, where there are any, agree; they are used for nothing
            else.

    Raises:
        ValueError: an unknown mode or rule, a quantile outside [0, 1), no time.
    """

    needs = (EarlyLearning,)

    def __init__(
        self,
        mode: Mode = "online",
        quantile: float = 0.8,
        open_for: float = 1.0,
        rule: Rule = "paper",
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
        self.openings: list[Opening] = []
        self.open: dict[int, Opening] = {}
        self._histogram = torch.zeros(0, BINS, dtype=torch.int64)
        self._histograms: deque[Tensor] = deque()
        self._threshold: Tensor | None = None
        self._visits: dict[int, tuple[Tensor, ...]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.early = self.needed(EarlyLearning)
        self.labels = trained(pl_module).labels
        self.data: PseudoLabelData = datamodule_of(trainer)
        if not self._histogram.numel():
            self._histogram = torch.zeros(self.labels.num_classes, BINS, dtype=torch.int64)
        if not trainer.is_global_zero:
            self._histogram.zero_()
        self._histogram = self._histogram.to(pl_module.device)
        if self._threshold is not None:
            self._threshold = self._threshold.to(pl_module.device)
        self._strategy = trainer.strategy

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trained(pl_module).step
        if self.mode in ("none", "elr") or step.is_skipped:
            return
        prediction, confidence = outputs["prediction"], outputs["confidence"]
        shown = ignore_padding(prediction, shown_pixels(batch["target"]["geometry"], prediction))
        self._histogram += confidence_histogram(
            confidence, shown, num_classes=self.labels.num_classes
        )
        if step.early_learning is not None:
            self._refresh()
            self._open(trainer, pl_module, step.iteration, step.early_learning.slowed)
        if self.mode == "online" and (self.open or self.rule == "release"):
            self._correct_crops(trainer, batch["target"], prediction, confidence)
        self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.mode in ("online", "offline"):
            log.info("%s", self.summary())

    def summary(self) -> str:
        """In words, how many classes were corrected and whether that was right."""
        classes = len({opening.label for opening in self.openings})
        known = sum(opening.known for opening in self.openings)
        text = (
            f"label correction: {classes} of {self.labels.num_classes} classes, "
            f"{sum(opening.changed for opening in self.openings):,} pixels"
        )
        if known:
            before = sum(opening.right_before for opening in self.openings) / known
            after = sum(opening.right_after for opening in self.openings) / known
            text += (
                f"; right, where the true label is known: {before:.1%} before, {after:.1%} after"
            )
        return text

    def _refresh(self) -> None:
        """Thresholds of the window that ends now, over all processes."""
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
                self.early.restart(label)

    def _correct_crops(
        self, trainer: Trainer, target: Batch, prediction: Tensor, confidence: Tensor
    ) -> None:
        """Write what this step, or the visits before it, say of the images of all processes."""
        parts = (target["index"], target["geometry"], prediction, confidence)
        everyone = zip(*map(of_each_process, parts), strict=True)
        if trainer.is_global_zero:
            for index, geometry, predicted, certainty in everyone:
                if self.rule == "release":
                    self._correct_visited(index, geometry, predicted, certainty)
                else:
                    self._write(index, geometry, self._proposal(predicted, certainty))
        if trainer.world_size > 1:
            # The next step of any process may read what was written.
            trainer.strategy.barrier("label correction")

    def _correct_visited(
        self, index: Tensor, geometry: Tensor, prediction: Tensor, confidence: Tensor
    ) -> None:
        """Write what the last visits predicted; remember this one."""
        for k, image in enumerate(index.tolist()):
            if self.open and image in self._visits:
                place, label, certainty = self._visits[image]
                proposal = self._proposal(
                    label.to(prediction.device), certainty.to(prediction.device).float()
                )
                self._write(index[k : k + 1], place[None], proposal[None])
            crop = np.s_[k, : int(geometry[k, HEIGHT]), : int(geometry[k, WIDTH])]
            self._visits[image] = (
                geometry[k].cpu(), prediction[crop].cpu(), confidence[crop].half().cpu()
            )  # fmt: skip

    def _proposal(
        self, prediction: UInt8[Tensor, "*shape"], confidence: Float[Tensor, "*shape"]
    ) -> UInt8[Tensor, "*shape"]:
        """The prediction where it is confident and its class open, IGNORE elsewhere."""
        assert self._threshold is not None, "open classes have been measured"
        limit = torch.full_like(self._threshold, torch.inf)
        for label in self.open:
            limit[label] = self._threshold[label]
        # NaN, the threshold of a class without predictions, is exceeded by nothing.
        chosen: Bool[Tensor, "*shape"] = confidence > limit[prediction.int()]
        return torch.where(chosen, prediction, IGNORE)

    def _correct_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict every training image, whole, and write what is confident."""
        if trainer.is_global_zero:
            # As in training steps, whose confidences the thresholds come from.
            predict = Inference(scales=trained(pl_module).scales)
            pl_module.eval()
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                for target in self.data.labelling_dataloader():
                    image = target["image"].to(pl_module.device)
                    probability = predict(pl_module, image).float().softmax(dim=1)
                    confidence, prediction = probability.max(dim=1)
                    proposal = self._proposal(prediction.to(torch.uint8), confidence)
                    self._write(target["index"], target["geometry"], proposal)
            pl_module.train()
        trainer.strategy.barrier("label correction")

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
            "visits": {image: list(visit) for image, visit in self._visits.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.openings = [Opening(**kept) for kept in state_dict["openings"]]
        last = {opening.label: opening for opening in self.openings}
        self.open = {label: last[label] for label in state_dict["open"]}
        self._histogram = state_dict["histogram"]
        self._histograms = deque(state_dict["histograms"])
        self._threshold = state_dict["threshold"]
        self._visits = {image: tuple(visit) for image, visit in state_dict["visits"].items()}
