"""The picture of UPLR's pseudo-labels: entropies of every class, their two modes, what is kept."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from jaxtyping import Integer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sfseg.callbacks.base import trained
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.ops.two_gaussians import Modes, centres
from sfseg.pseudo.reader import PseudoLabels
from sfseg.report.drawing import Pixels, write_png
from sfseg.report.plots import Axes, Plot, grid
from sfseg.report.sending import send_picture, send_table
from sfseg.report.tables import Cell, write_csv
from sfseg.types import IGNORE

log = logging.getLogger(__name__)

DRAWN = 64
"""Bars of a drawn histogram."""
LEGEND = ("pixels (root)", "certain and uncertain mode", "threshold", "certain")
COLUMNS = (
    "class", "pixels", "weight_certain", "mean_certain", "deviation_certain", "mean_uncertain",
    "deviation_uncertain", "threshold", "kept", "kept_share", "known", "right", "right_share",
)  # fmt: skip


class Labelling(Protocol):
    """What the method says of labels that it has made: all of a class over the whole set.

    number: of the round, from 1.
    histogram: (K, bins) pixels of each entropy.
    modes: fitted to that.
    threshold: (K,) entropy up to which pixels are certain.
    """

    number: int
    histogram: Tensor
    modes: Modes
    threshold: Tensor


class LabelsByCertainty(Protocol):
    """What the callback asks of a method."""

    labelling: Labelling | None


class Labelled(Protocol):
    """What the callback asks of the DataModule."""

    pseudo_labels: PseudoLabels

    def true_label(self, index: int) -> np.ndarray | None: ...


@dataclass(frozen=True)
class Kept:
    """What has become of the pixels that each class was predicted for: (K,) counts.

    labels: pixels with a pseudo-label.
    known: of these, those that have a true label.
    right: of these, those that agree with it.
    """

    labels: Integer[np.ndarray, " K"]
    known: Integer[np.ndarray, " K"]
    right: Integer[np.ndarray, " K"]


class CertaintyReport(Callback):
    """Draws, whenever the method has labelled the target, what it has kept of each class.

    ``round_1.png`` and ``round_1.csv`` are of the first labels. Where images have true labels, the
    kept pixels that agree with them are counted; nothing is ever trained on that.

    Args:
        folder: where the files go.
        measure: whether kept pixels are compared with true labels, which reads all of these.
    """

    def __init__(self, folder: str, *, measure: bool = True) -> None:
        self.folder, self.measure = Path(folder), measure
        self._drawn: Labelling | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not hasattr(pl_module, "labelling"):
            raise ConfigError(
                "callbacks.certainty_report needs a method that labels by certainty, such as "
                f"method=uplr, got {type(pl_module).__name__}; remove it with "
                "~callbacks.certainty_report"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        labelling = cast(LabelsByCertainty, pl_module).labelling
        if labelling is None or labelling is self._drawn or not trainer.is_global_zero:
            return
        self._drawn = labelling
        labels = trained(pl_module).labels
        kept = count_kept(cast(Labelled, trainer.datamodule), labels, measure=self.measure)  # type: ignore[attr-defined]
        picture, rows = draw(labelling, kept, labels), table(labelling, kept, labels)
        path = self.folder / f"round_{labelling.number}.png"
        write_png(path, picture)
        write_csv(path.with_suffix(".csv"), COLUMNS, rows)
        send_picture(trainer.loggers, "certainty", picture, trainer.global_step)
        send_table(trainer.loggers, "certainty", COLUMNS, rows)
        log.info("pseudo-labels: what each class has kept is drawn in %s", path)


def count_kept(data: Labelled, labels: LabelSpace, *, measure: bool) -> Kept:
    """Count the pseudo-labels of all images, and how many agree with true labels."""
    size = (3, labels.num_classes)
    total = np.zeros(size, np.int64)
    for index in range(len(data.pseudo_labels)):
        own = data.pseudo_labels.read(index).label
        true = data.true_label(index) if measure else None
        total[0] += _counts(own, own != IGNORE, labels)
        if true is not None:
            total[1] += _counts(own, (own != IGNORE) & (true != IGNORE), labels)
            total[2] += _counts(own, (own != IGNORE) & (true == own), labels)
    return Kept(*total)


def draw(labelling: Labelling, kept: Kept, labels: LabelSpace) -> Pixels:
    """A plot of every class that was predicted somewhere: (H, W, 3) RGB."""
    pixels = labelling.histogram.sum(dim=1)
    plots = [_plot(labelling, kept, labels, k) for k in range(len(pixels)) if pixels[k]]
    title = f"entropy of each class's pixels, round {labelling.number}"
    return grid(plots, Axes(x="entropy", y="", last=1.0), title=title, legend=LEGEND)


def _plot(labelling: Labelling, kept: Kept, labels: LabelSpace, label: int) -> Plot:
    bars = labelling.histogram[label].cpu().double().view(DRAWN, -1).sum(dim=1).numpy()
    middle = centres()
    modes = Modes(*(part[label].cpu() for part in labelling.modes))
    # Of a bar: its pixels by density. The root lets a low mode be seen beside a high one.
    curves = modes.density(middle).view(2, DRAWN, -1).mean(dim=2).numpy() * bars.sum() / DRAWN
    largest = max(bars.max(), 1)
    x = middle.view(DRAWN, -1).mean(dim=1).tolist()
    threshold = min(float(labelling.threshold[label]), 1.0)
    return Plot(
        name=labels.classes[label],
        colour=labels.palette[label],
        words=words(labelling, kept, label),
        curves=[(x, np.sqrt(bars / largest).tolist())],
        fits=[(x, np.sqrt(curve / largest).tolist()) for curve in curves],
        moments=[threshold],
        spans=[(0.0, threshold)],
    )


def words(labelling: Labelling, kept: Kept, label: int) -> tuple[str, str]:
    """What is said below a plot: the threshold, and what it has kept."""
    pixels = int(labelling.histogram[label].sum())
    text = f"kept {kept.labels[label] / pixels:.0%} of {pixels:,} px"
    if kept.known[label]:
        text += f", right {kept.right[label] / kept.known[label]:.0%}"
    return f"certain up to {float(labelling.threshold[label]):.3f}", text


def table(labelling: Labelling, kept: Kept, labels: LabelSpace) -> list[list[Cell]]:
    """A row of :data:`COLUMNS` for every class."""
    rows: list[list[Cell]] = []
    for k, name in enumerate(labels.classes):
        weight, mean, variance = (part[k].tolist() for part in labelling.modes)
        pixels, (own, known, right) = (
            int(labelling.histogram[k].sum()),
            (int(part[k]) for part in (kept.labels, kept.known, kept.right)),
        )
        rows.append([
            name, pixels, weight[0], mean[0], variance[0] ** 0.5, mean[1], variance[1] ** 0.5,
            float(labelling.threshold[k]), own, own / pixels if pixels else None,
            known, right, right / known if known else None,
        ])  # fmt: skip
    return rows


def _counts(label: np.ndarray, chosen: np.ndarray, labels: LabelSpace) -> np.ndarray:
    return np.bincount(label[chosen], minlength=labels.num_classes)[: labels.num_classes]
