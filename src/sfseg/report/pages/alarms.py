"""Signs that adaptation has gone wrong, from what a run has logged."""

import csv
import math
from collections.abc import Iterator

from sfseg.report.pages.classes import counts_of, vanished
from sfseg.report.pages.csv_files import Row, number
from sfseg.report.pages.run_files import RunFiles
from sfseg.report.tables import percent

FALL = 0.02
"""Loss of a label-free score since its best that is worth a word."""
CERTAIN = 0.02
"""Normalised entropy below which a network is certain of everything."""


def alarms(run: RunFiles) -> list[str]:
    """A sentence for each sign, gravest first."""
    return [*_of_scores(run), *_of_classes(run), *_of_label_free(run), *_of_losses(run)]


def picked(rows: list[Row], name: str = "combined") -> Row | None:
    """The row of the best label-free score; the first of equals; None where there is none."""
    known = [row for row in rows if math.isfinite(number(row, name))]
    return max(known, key=lambda row: number(row, name), default=None)


def names_in(cell: str) -> list[str]:
    """Names of classes in one cell."""
    return next(csv.reader([cell], delimiter=";"), []) if cell else []


def _of_scores(run: RunFiles) -> Iterator[str]:
    for domain, one in run.scores.items():
        if one.before is None or not one.is_labelled:
            continue
        gain = one.summary["mIoU"] - one.before[0]["mIoU"]
        if gain < 0:
            yield (
                f"{domain}: adaptation has made the model worse, by {percent(-gain)} points of "
                "mIoU."
            )


def _of_classes(run: RunFiles) -> Iterator[str]:
    for domain, one in run.scores.items():
        before = counts_of(run, domain, "source_only")
        if gone := vanished(one, counts_of(run, domain), before):
            yield (
                f"{domain}: the adapted model predicts no more {', '.join(gone)} (less than 0.1 % "
                "of the pixels), which the source model did and which the labels have."
            )


def _of_label_free(run: RunFiles) -> Iterator[str]:
    if not run.label_free:
        return
    first, last = run.label_free[0], run.label_free[-1]
    if last.get("has_collapsed") == "True":
        yield (
            f"Collapse: at step {last.get('step')} fewer than half of the classes are left that "
            "the source model predicts on the target's training images."
        )
    if gone := names_in(last.get("vanished") or ""):
        yield (
            f"On the target's training images {', '.join(gone)} vanished: predicted at the start, "
            f"not at step {last.get('step')}."
        )
    best = picked(run.label_free)
    if best is not None:
        loss = number(best, "combined") - number(last, "combined")
        if loss > FALL:
            yield (
                f"The label-free score has fallen by {percent(loss)} points since step "
                f"{best.get('step')}, its best: {number(best, 'combined'):.3f}, then "
                f"{number(last, 'combined'):.3f}."
            )
    end, start = number(last, "entropy"), number(first, "entropy")
    if end < CERTAIN and end < start / 2:
        yield (
            f"Entropy collapse: the mean normalised entropy fell from {start:.3f} to {end:.3f}; "
            "the model is certain of nearly every pixel, right or wrong."
        )


def _of_losses(run: RunFiles) -> Iterator[str]:
    values = run.metrics.values.get("train/loss")
    if values is None:
        return
    if lost := sum(not math.isfinite(value) for value in values):
        yield f"{lost:,} of {len(values):,} logged losses are not finite."
    if (run.folder / "nonfinite").is_dir():
        yield "A loss or gradient was not finite; nonfinite/ keeps the step for replay=."
