"""Scores of the model on images of the target without their labels, during training."""

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from sfseg.callbacks.base import Trained, is_adapting, trained
from sfseg.callbacks.order import Ordered
from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.metrics import Scored, Scores, judged_by
from sfseg.modes import evaluating
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.inference import label_map
from sfseg.ops.label_free import (
    agreement,
    agreement_counts,
    class_shares,
    classwise_agreement,
    second_view,
    soft_neighbourhood_density,
)
from sfseg.randomness import generator
from sfseg.report.tables import Cell, to_csv, write_csv
from sfseg.storage.lightning_state import datamodule_of

log = logging.getLogger(__name__)

Score = Literal["combined", "agreement", "snd", "entropy"]
SCORES: tuple[Score, ...] = get_args(Score)
PREFIX = "label_free/"
"""Of their names in logs."""
PREDICTED = 1e-3
"""Share of pixels above which a class counts as predicted."""
HEADER = ("step", "iteration", *SCORES, "classes", "vanished", "has_collapsed", "target_mIoU")


@dataclass
class Measurement:
    """What was found at one step.

    step: optimiser steps done.
    iteration: of training.
    scores: by :data:`Score`.
    classes: how many were predicted.
    vanished: ids of those that were at the start and are not any more.
    has_collapsed: whether fewer than half of those of the start are left.
    miou: by the target's labels, in [0, 1]; NaN where there are none.
    """

    step: int
    iteration: int
    scores: dict[str, float]
    classes: int
    vanished: list[int]
    has_collapsed: bool
    miou: float = math.nan


@dataclass
class Predicted:
    """Sums over images, and values of each.

    counts: (K, K), see :func:`sfseg.ops.label_free.agreement_counts`.
    """

    counts: Tensor
    images: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    snd: list[float] = field(default_factory=list)


class LabelFreeScore(Ordered):
    """Scores the model on unlabelled images of the target, and warns when a class vanishes.

    At every evaluation and before the first step, two views of some images (as they are, and
    mirrored and darker) are predicted whole:

    * ``entropy`` is the mean normalised entropy of the first view's pixels; lower is better;
    * ``snd`` is the soft neighbourhood density of some of an image's pixels, mean over images;
    * ``agreement`` is the share of pixels that have the same class in both views;
    * ``combined`` is the IoU of both views, mean over the classes that the source model predicts.

    By the first three nothing is better than one class for all pixels, where self-training leads
    when it fails; by ``combined`` a class that has vanished counts as 0. It has no weights to tune.
    It cannot see an error that all views share, and takes the source model's word for which
    classes occur.

    The scores are logged as ``label_free/<name>`` and kept in ``label_free.csv``. The mIoU beside
    them there is for those who ask what they were worth; nothing is done with it. Training is not
    disturbed: its weights are those without this callback. Methods that do not train on unlabelled
    images of the target are not scored; of those that do not start as the source model, and where a
    run is continued that was not scored, any class is expected, and none is reported missing.

    Args:
        folder: of the run.
        images: how many, evenly spread over the target's training images.
        pixels: of an image, for the density.
        score: by which a checkpoint is selected, see :class:`sfseg.callbacks.selection.Selection`.

    Raises:
        ValueError: no images, fewer than two pixels, an unknown score.
    """

    before = (WeightAveraging,)

    def __init__(
        self, folder: str, images: int = 32, pixels: int = 256, score: Score = "combined"
    ) -> None:
        if images < 1:
            raise ValueError(
                f"images must be at least 1, got {images}; ~callbacks.label_free_score is off"
            )
        if pixels < 2:
            raise ValueError(f"pixels must be at least 2, got {pixels}")
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        self.path = Path(folder) / "label_free.csv"
        self.images, self.pixels, self.score = images, pixels, score
        self.measurements: list[Measurement] = []
        self._reference: list[int] = []
        self._chosen: list[int] = []

    def goodness(self, step: int) -> float:
        """The score to select by after a step, higher is better; NaN where it was not measured."""
        found = self._at(step)
        if found is None:
            return math.nan
        return found.scores[self.score] * (-1 if self.score == "entropy" else 1)

    def logged(self, step: int) -> dict[str, float]:
        """What was logged after a step; empty where it was not measured."""
        found = self._at(step)
        scores = {} if found is None else found.scores
        return {f"{PREFIX}{name}": value for name, value in scores.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.measurements or not self._is_due(trainer, pl_module):
            return
        logged = self._measure(trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)
        method = trained(pl_module)
        scores = method.source_scores if self._follows_source(method, trainer.global_step) else {}
        self._complete(trainer, pl_module, scores)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here, not when evaluation ends: averaged weights are still in place.
        if self._is_due(trainer, pl_module):
            pl_module.log_dict(self._measure(trainer, pl_module), sync_dist=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = self._at(trainer.global_step)
        if found is not None and math.isnan(found.miou) and is_adapting(pl_module):
            self._complete(trainer, pl_module, trained(pl_module).scores)

    def _is_due(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        is_trial = trainer.sanity_checking or cast(Any, trainer).fast_dev_run
        return not is_trial and is_adapting(pl_module) and self._at(trainer.global_step) is None

    def _at(self, step: int) -> Measurement | None:
        return next((m for m in self.measurements if m.step == step), None)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Add a measurement, found by the first process and known to all; returns what to log."""
        predicted: Predicted | None = None
        if trainer.is_global_zero:
            context = trainer.precision_plugin.forward_context()
            with isolate_rng(), evaluating(pl_module), torch.no_grad(), context:
                predicted = self._predict(trainer, pl_module)
        predicted = trainer.strategy.broadcast(predicted)
        assert predicted is not None
        self._chosen = predicted.images
        method = trained(pl_module)
        found = self._judge(predicted, method, trainer.global_step)
        if trainer.is_global_zero and self._follows_source(method, trainer.global_step):
            self._warn(found, method.labels)
        self.measurements.append(found)
        return self.logged(trainer.global_step)

    def _predict(self, trainer: Trainer, pl_module: LightningModule) -> Predicted:
        method = trained(pl_module)
        # Without its further views: an average with the mirror image always agrees with it.
        predict = replace(method.inference, scales=(1.0,), flip=False)
        classes = method.labels.num_classes
        found = Predicted(torch.zeros(classes, classes, dtype=torch.int64))
        for index, image in self._pictures(trainer):
            image = image.to(pl_module.device)
            logits = predict(pl_module, image).float()
            other = predict(pl_module, second_view(image)).float().flip(-1)
            size = (image.shape[-2], image.shape[-1])
            labels = (label_map(logits, size), label_map(other, size))
            found.counts += agreement_counts(*labels, num_classes=classes).cpu()
            found.entropy.append(float(normalized_entropy(logits).mean()))
            found.snd.append(float(soft_neighbourhood_density(self._some(logits, index))))
            found.images.append(index)
        if not found.images:
            raise DataError("label-free score: none of the chosen target images can be read")
        return found

    def _pictures(self, trainer: Trainer) -> Iterator[tuple[int, Tensor]]:
        """Numbers and images (1, 3, H, W); an image that cannot be read is left out for good."""
        loader = datamodule_of(trainer).labelling_dataloader()
        chosen = self._chosen
        if not chosen:
            usable = loader.sampler.every
            places = np.linspace(0, len(usable) - 1, min(self.images, len(usable)))
            chosen = [usable[k] for k in places.round().astype(int)]
        for index in chosen:
            try:
                image = loader.dataset[(0, index)]["image"]
            except DataError as error:
                log.warning("label-free score: an image is left out from now on: %s", error)
                continue
            yield index, image[None]

    def _some(self, logits: Tensor, index: int) -> Tensor:
        """Probabilities (N, K) of some pixels of an image, the same ones at every step."""
        flat = logits[0].flatten(1).T  # (H W, K)
        rng = generator(0, 0, index, "label-free score")
        places = rng.choice(len(flat), size=min(self.pixels, len(flat)), replace=False)
        return flat[torch.from_numpy(places).to(flat.device)].softmax(dim=1)

    def _judge(self, predicted: Predicted, method: Trained, step: int) -> Measurement:
        present = class_shares(predicted.counts) > PREDICTED
        ids = torch.arange(len(present))
        if not self._reference:
            # Of other weights, predictions say nothing: any class may occur.
            follows = self._follows_source(method, step)
            self._reference = (ids[present] if follows else ids).tolist()
        reference = torch.isin(ids, torch.tensor(self._reference))
        vanished: list[int] = ids[reference & ~present].tolist()
        return Measurement(
            step=step,
            iteration=method.iteration,
            scores={
                "combined": float(classwise_agreement(predicted.counts, reference)),
                "agreement": float(agreement(predicted.counts)),
                "snd": sum(predicted.snd) / len(predicted.snd),
                "entropy": sum(predicted.entropy) / len(predicted.entropy),
            },
            classes=int(present.sum()),
            vanished=vanished,
            has_collapsed=(
                self._follows_source(method, step) and 2 * len(vanished) > len(self._reference)
            ),
        )

    def _follows_source(self, method: Trained, step: int) -> bool:
        """Whether the first measurement was, or at this step is, that of the source model."""
        first = self.measurements[0].step if self.measurements else step
        return method.starts_as_source_model and first == 0

    def _warn(self, found: Measurement, labels: LabelSpace) -> None:
        """Say so of a collapse when it comes, and of each class that has just gone."""
        last = self.measurements[-1] if self.measurements else None
        gone = set(found.vanished) - set(last.vanished if last else ())
        has_collapsed = found.has_collapsed and not (last and last.has_collapsed)
        if not (gone or has_collapsed):
            return
        what = "collapse: " if has_collapsed else ""
        log.warning(
            "%sof %d classes that the model predicted at first, %d are left at step %d; "
            "%s: %s. Lower the learning rate, or keep an earlier state with select=label_free",
            what,
            len(self._reference),
            len(self._reference) - len(found.vanished),
            found.step,
            "vanished" if has_collapsed else "newly vanished",
            ", ".join(
                labels.classes[k] for k in (found.vanished if has_collapsed else sorted(gone))
            ),
        )

    def _complete(
        self, trainer: Trainer, pl_module: LightningModule, scores: dict[str, Scores]
    ) -> None:
        """Note the mIoU of the last measurement, where there is one, and write the file."""
        found, method = self.measurements[-1], trained(pl_module)
        found.miou = target_miou(method, scores)
        if trainer.is_global_zero:
            write_csv(self.path, HEADER, [_row(m, method.labels) for m in self.measurements])

    def state_dict(self) -> dict[str, Any]:
        if not self.measurements:
            return {}
        return {
            "measurements": [asdict(m) for m in self.measurements],
            "reference": self._reference,
            "images": self._chosen,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.measurements = [Measurement(**kept) for kept in state_dict["measurements"]]
        self._reference = state_dict["reference"]
        self._chosen = state_dict["images"]


def target_miou(method: Scored, scores: dict[str, Scores]) -> float:
    """Of the target, or the mean over evaluation sets, in [0, 1].

    NaN where it was not evaluated or has no labels.
    """
    target = scores.get(judged_by(method.eval_domains))
    return math.nan if target is None else target.miou["mIoU"]


def _row(m: Measurement, labels: LabelSpace) -> list[Cell]:
    names = to_csv([labels.classes[k] for k in m.vanished], [], delimiter=";").rstrip("\n")
    scores = [m.scores[name] for name in SCORES]
    return [m.step, m.iteration, *scores, m.classes, names, m.has_collapsed, m.miou]
