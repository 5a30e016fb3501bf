"""Scores of classes before and after, and what is taken for what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfseg.report.pages.run_files import Counts, RunFiles
from sfseg.report.scores_file import Scored

CONFUSIONS = 12
"""The most that a page lists."""
MATRIX = 40
"""Classes of the largest matrix that is drawn."""
SEEN = 1e-3
"""Share of pixels above which a class counts as predicted, as in the label-free score."""
Matrix = NDArray[np.int64]


@dataclass
class ClassRow:
    """A class, or a mean of some; shares in [0, 1], NaN where there is none.

    labelled, predicted: shares of the set's labelled pixels; NaN where they were not kept.
    is_mean: of several classes.
    """

    name: str
    after: float
    before: float = math.nan
    labelled: float = math.nan
    predicted: float = math.nan
    is_mean: bool = False

    @property
    def gain(self) -> float:
        return self.after - self.before


@dataclass
class Confusion:
    """A class that is taken for another: shares of its labelled pixels, before and after."""

    label: str
    prediction: str
    after: float
    before: float


@dataclass
class SetClasses:
    """What there is to say of the classes of one evaluated set."""

    domain: str
    rows: list[ClassRow]
    has_before: bool
    confusions: list[Confusion]
    matrix: list[list[float]] | None
    names: list[str]


def rows_of(run: RunFiles, domain: str) -> list[ClassRow]:
    """Classes and means of a set, in the order of its results."""
    one = run.scores[domain]
    old_summary, old = one.before or ({}, {})
    rows = [ClassRow(k, v, old.get(k, math.nan)) for k, v in one.iou.items()]
    counts = counts_of(run, domain)
    if counts is not None and (total := counts.sum()):
        for k, row in enumerate(rows):
            row.labelled = float(counts[k].sum() / total)
            row.predicted = float(counts[:, k].sum() / total)
    means = [
        ClassRow(k, v, old_summary.get(k, math.nan), is_mean=True) for k, v in one.summary.items()
    ]
    return rows + means


def counts_of(run: RunFiles, domain: str, key: str = "counts") -> Matrix | None:
    """Pixels by label and prediction, of the classes that the scores are of; None: not kept."""
    found: Counts | None = run.confusion.get(domain, {}).get(key)
    if found is None or len(found) != len(run.scores[domain].iou):
        return None
    return np.array(found, np.int64)


def classes_of(run: RunFiles, domain: str) -> SetClasses:
    """Classes, confusions and the matrix of a set that has labels."""
    names = list(run.scores[domain].iou)
    after = shares(counts_of(run, domain))
    before = shares(counts_of(run, domain, "source_only"))
    return SetClasses(
        domain,
        rows_of(run, domain),
        run.scores[domain].before is not None,
        [] if after is None else confusions(names, after, before),
        None if after is None or len(names) > MATRIX else np.nan_to_num(after).tolist(),
        names,
    )


def shares(counts: Matrix | None) -> NDArray[np.float64] | None:
    """Rows of a matrix as shares of their sums; NaN in rows of classes without labels."""
    if counts is None:
        return None
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


def confusions(
    names: Sequence[str], after: NDArray[np.float64], before: NDArray[np.float64] | None
) -> list[Confusion]:
    """The largest confusions of two classes, by the larger of both models' shares."""
    old = np.full_like(after, np.nan) if before is None else before
    larger = np.fmax(after, old)
    np.fill_diagonal(larger, np.nan)
    order = np.argsort(np.nan_to_num(-larger, nan=1.0), axis=None, kind="stable")[:CONFUSIONS]
    places = zip(*np.unravel_index(order, larger.shape), strict=True)
    return [
        Confusion(names[i], names[j], float(after[i, j]), float(old[i, j]))
        for i, j in places
        if larger[i, j] >= 0.01
    ]


def vanished(one: Scored, counts: Matrix | None, before: Matrix | None) -> list[str]:
    """Classes that have labels, which the first model predicted and the adapted one does not."""
    names = list(one.iou)
    if counts is not None and before is not None and counts.sum():
        total = counts.sum()
        now, then = counts.sum(axis=0) / total, before.sum(axis=0) / max(before.sum(), 1)
        labelled = counts.sum(axis=1) > 0
        return [n for k, n in enumerate(names) if labelled[k] and now[k] < SEEN <= then[k]]
    old = one.before[1] if one.before else {}
    return [name for name in names if one.iou[name] == 0 and old.get(name, 0) >= 0.01]
