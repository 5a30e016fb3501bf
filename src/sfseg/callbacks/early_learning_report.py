"""The early-learning picture: every class's IoU curve, its fit and the corrections, with tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from sfseg.callbacks.base import trained
from sfseg.callbacks.early_learning import EarlyLearning, Measurement
from sfseg.callbacks.label_correction import LabelCorrection
from sfseg.callbacks.openings import Opening
from sfseg.callbacks.order import Ordered
from sfseg.labels import LabelSpace
from sfseg.ops.early_learning import Curve, Fit, fit_curve
from sfseg.report.drawing import Pixels, write_png
from sfseg.report.plots import Axes, Plot, grid
from sfseg.report.sending import send_picture, send_table
from sfseg.report.tables import Cell, write_csv

LEGEND = ("IoU with pseudo-labels", "fit until slowed", "correction begins", "correction")
MEASURED = ("iteration", "passes", "class", "iou", "slowdown", "fitted", "has_slowed", "is_open")
CORRECTED = (
    "class", "iteration", "passes", "closed", "changed", "refused", "known", "right_before",
    "right_after", "right_before_share", "right_after_share",
)  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """A class's curve from the start, or from where it began anew, to where the next begins.

    Args:
        start: passes over the target's images until then.
        points: its measurements, in their order.
        num_fitted: how many there were when it slowed; all where it has not, or where the next
            curve begins at once.
        fit: to these.
    """

    start: float
    points: tuple[Measurement, ...]
    num_fitted: int
    fit: Fit | None

    def value(self, passes: Sequence[float]) -> Float[np.ndarray, " T"]:
        """Fitted IoU; NaN without a fit."""
        if self.fit is None:
            return np.full(len(passes), np.nan)
        return self.fit.value(np.asarray(passes, np.float64) - self.start)


class EarlyLearningReport(Ordered):
    """Writes how every class learnt its pseudo-labels and what their correction changed.

    ``early_learning.png`` and ``.csv`` hold the curves, ``label_correction.csv`` the times in which
    labels were corrected. All are written anew at every evaluation and at the end of training, and
    go to loggers that take images and tables.

    Args:
        folder: where the files go.
    """

    needs = (EarlyLearning,)
    after = (LabelCorrection,)

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._written = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.early = self.needed(EarlyLearning)
        self._written = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._write(trainer, trained(pl_module).labels)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, trained(pl_module).labels)

    def _write(self, trainer: Trainer, labels: LabelSpace) -> None:
        measurements, step = self.early.measurements, trainer.global_step
        # Training often ends with an evaluation, which has written all there is.
        if not trainer.is_global_zero or not measurements or step == self._written:
            return
        self._written = step
        openings = [opening for c in self.given(LabelCorrection) for opening in c.openings]
        segments = split(
            measurements,
            openings,
            curve=self.early.curve,
            at_opening=self.early.restarts_at_opening,
        )
        picture = draw(segments, openings, labels, title=self._title())
        corrected = correction_rows(openings, labels)
        write_png(self.folder / "early_learning.png", picture)
        write_csv(
            self.folder / "early_learning.csv",
            MEASURED,
            measurement_rows(segments, openings, labels),
        )
        write_csv(self.folder / "label_correction.csv", CORRECTED, corrected)
        send_picture(trainer.loggers, "early_learning", picture, step)
        if corrected:
            send_table(trainer.loggers, "label_correction", CORRECTED, corrected)

    def _title(self) -> str:
        early = self.early
        return (
            f"early learning: {early.curve} curve, rule {early.rule}, threshold {early.threshold:g}"
        )


def split(
    measurements: Sequence[Measurement],
    openings: Sequence[Opening],
    *,
    curve: Curve,
    at_opening: bool = False,
) -> dict[int, list[Segment]]:
    """The segments of every class, by its id; a curve begins anew where an opening closed.

    See :attr:`sfseg.callbacks.early_learning.EarlyLearning.restarts_at_opening`.
    """
    points: dict[int, list[Measurement]] = {}
    for measurement in measurements:
        points.setdefault(measurement.label, []).append(measurement)
    return {
        label: _split_class(
            points[label], [o for o in openings if o.label == label], curve, at_opening
        )
        for label in sorted(points)
    }


def _split_class(
    points: Sequence[Measurement], openings: Sequence[Opening], curve: Curve, at_opening: bool
) -> list[Segment]:
    ends = [o.passes if at_opening else o.closed for o in openings]
    starts = [0.0, *(end for end in ends if end is not None)]
    segments = []
    for start, end in zip(starts, [*starts[1:], math.inf], strict=True):
        # What is measured in the step that closes is still of the labels before.
        own = tuple(m for m in points if start < m.passes <= end)
        slowed = [k for k, m in enumerate(own, start=1) if m.has_slowed and not at_opening]
        num_fitted = slowed[0] if slowed else len(own)
        t = np.array([m.passes - start for m in own[:num_fitted]])
        iou = np.array([m.iou for m in own[:num_fitted]])
        segments.append(Segment(start, own, num_fitted, fit_curve(t, iou, curve=curve)))
    return segments


def draw(
    segments: dict[int, list[Segment]],
    openings: Sequence[Opening],
    labels: LabelSpace,
    *,
    title: str,
) -> Pixels:
    """A plot of every class that was measured: (H, W, 3) RGB."""
    last = max(
        *(m.passes for own in segments.values() for s in own for m in s.points),
        *(o.closed or o.passes for o in openings),
        0.0,
    )
    plots = [
        _plot(own, [o for o in openings if o.label == label], last, labels, label)
        for label, own in segments.items()
    ]
    return grid(plots, Axes(last=last), title=title, legend=LEGEND)


def _plot(
    segments: Sequence[Segment],
    openings: Sequence[Opening],
    last: float,
    labels: LabelSpace,
    label: int,
) -> Plot:
    fits = []
    for segment in segments:
        if segment.fit is not None:
            fitted = segment.points[: segment.num_fitted]
            x = np.linspace(fitted[0].passes, fitted[-1].passes, 200).tolist()
            fits.append((x, segment.value(x).tolist()))
    return Plot(
        name=labels.classes[label],
        colour=labels.palette[label],
        words=words([m for s in segments for m in s.points], openings),
        curves=[([m.passes for m in s.points], [m.iou for m in s.points]) for s in segments],
        fits=fits,
        moments=[o.passes for o in openings],
        spans=[(o.passes, last if o.closed is None else o.closed) for o in openings],
    )


def words(points: Sequence[Measurement], openings: Sequence[Opening]) -> tuple[str, str]:
    """What is said below a plot: the slowdown at the end, and what correction has changed."""
    if all(math.isnan(m.iou) for m in points):
        state = "no pixels so far"
    elif math.isnan(points[-1].slowdown):
        state = "no slowdown yet"
    else:
        state = f"slowdown {points[-1].slowdown:.2f}"
    if not openings:
        return state, "not corrected"
    text = f"{sum(o.changed for o in openings):,} px changed"
    known = sum(o.known for o in openings)
    if known:
        before = sum(o.right_before for o in openings) / known
        after = sum(o.right_after for o in openings) / known
        text += f", right {before:.0%} -> {after:.0%}"
    return state, text


def measurement_rows(
    segments: dict[int, list[Segment]], openings: Sequence[Opening], labels: LabelSpace
) -> list[list[Cell]]:
    """A row of ``MEASURED`` for every measurement, by time, then class.

    After a class has slowed, ``fitted`` goes on with the curve that said so.
    """
    rows: list[tuple[float, int, list[Cell]]] = []
    for label, own in segments.items():
        times = [(o.passes, math.inf if o.closed is None else o.closed)
                 for o in openings if o.label == label]  # fmt: skip
        for segment in own:
            fitted = segment.value([m.passes for m in segment.points]).tolist()
            for m, value in zip(segment.points, fitted, strict=True):
                is_open = any(first < m.passes <= end for first, end in times)
                row = [m.iteration, m.passes, labels.classes[label], m.iou, m.slowdown, value,
                       m.has_slowed, is_open]  # fmt: skip
                rows.append((m.passes, label, row))
    return [row for _, _, row in sorted(rows, key=lambda entry: entry[:2])]


def correction_rows(openings: Sequence[Opening], labels: LabelSpace) -> list[list[Cell]]:
    """A row of ``CORRECTED`` for every opening; without known truth its shares are None."""
    return [
        [labels.classes[o.label], o.iteration, o.passes, o.closed, o.changed, o.refused, o.known,
         o.right_before, o.right_after,
         o.right_before / o.known if o.known else None,
         o.right_after / o.known if o.known else None]
        for o in openings
    ]  # fmt: skip
