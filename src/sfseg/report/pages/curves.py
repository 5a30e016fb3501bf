"""Curves over training steps as places in a drawing: few points, no extreme lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfseg.report.plots import ticks

WIDTH, HEIGHT = 420, 200
"""Of a drawing, in its own units."""
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22
"""Margins around the part that holds the curves."""
POINTS = 300
"""Groups of neighbouring points, of each of which the lowest and the highest stay."""
LARGEST = 1e300
Floats = NDArray[np.float64]


@dataclass
class Curve:
    """A line: pieces between gaps, each of places ``x,y``; single points are marks."""

    name: str
    pieces: list[str] = field(default_factory=list)
    marks: list[tuple[float, float]] = field(default_factory=list)
    first: str = ""
    last: str = ""


@dataclass
class Chart:
    """A drawing of curves over steps.

    x, y: places of the ticks, and their words.
    moments: places of vertical lines, and their words.
    note: what else there is to know.
    """

    title: str
    curves: list[Curve]
    x: list[tuple[float, str]]
    y: list[tuple[float, str]]
    moments: list[tuple[float, str]] = field(default_factory=list)
    note: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def thinned(x: ArrayLike, y: ArrayLike, groups: int = POINTS) -> tuple[Floats, Floats]:
    """A curve of at most 2 ``groups`` + 2 points that has the same lowest, highest, first and last.

    Args:
        x: rising.
        y: values; those that are not finite are left out.
        groups: of neighbouring points.
    """
    across, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(values) & np.isfinite(across)
    # Differences of larger values could not be said in a float.
    across, values = across[known], np.clip(values[known], -LARGEST, LARGEST)
    size = len(values)
    if size <= 2 * groups + 2:
        return across, values
    edges = np.linspace(0, size, groups + 1).astype(int)
    kept = {0, size - 1}
    for begin, end in pairwise(edges.tolist()):
        part = values[begin:end]
        kept |= {begin + int(part.argmin()), begin + int(part.argmax())}
    chosen = np.array(sorted(kept))
    return across[chosen], values[chosen]


def chart(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    last: float,
    percent: bool = False,
    moments: Sequence[tuple[float, str]] = (),
) -> Chart | None:
    """Curves in one drawing; None where none of them has a finite value.

    Args:
        title: above it.
        series: steps, and values at them, by the name of the curve.
        last: step at the right end.
        percent: values are shares, which are shown as percent, from 0.
        moments: steps of vertical lines, and their words.
    """
    thin = {name: thinned(*_in_order(x, y)) for name, (x, y) in series.items()}
    thin = {name: points for name, points in thin.items() if len(points[0])}
    if not thin:
        return None
    every = np.concatenate([y for _, y in thin.values()])
    low, high = _range(float(every.min()), float(every.max()), from_zero=percent)
    last = max(last, *(float(x[-1]) for x, _ in thin.values()), 1.0)
    lost = sum(int((~np.isfinite(np.asarray(y, np.float64))).sum()) for _, y in series.values())

    def place(step: float, value: float) -> tuple[float, float]:
        across = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def text(value: float) -> str:
        return f"{100 * value:.4g}" if percent else f"{value:.4g}"

    curves = []
    for name, (x, y) in thin.items():
        places = [place(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        words = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        marks = places if len(places) <= 40 else []
        curves.append(Curve(name, [words], marks, text(float(y[0])), text(float(y[-1]))))
    return Chart(
        title,
        curves,
        x=[(place(step, low)[0], f"{step:,.10g}") for step in ticks(last, most=5)],
        y=[(place(0, value)[1], text(value)) for value in _levels(low, high)],
        moments=[(place(step, low)[0], words) for step, words in moments if step <= last],
        note=f"{lost:,} values are not finite and left out." if lost else "",
    )


def _in_order(x: Sequence[float], y: Sequence[float]) -> tuple[Floats, Floats]:
    """By step: what was logged again after a restart comes later in the file."""
    steps = np.asarray(x, np.float64)
    order = np.argsort(steps, kind="stable")
    return steps[order], np.asarray(y, np.float64)[order]


def _range(low: float, high: float, *, from_zero: bool) -> tuple[float, float]:
    low = min(low, 0.0) if from_zero else low
    if high <= low:
        reach = abs(low) / 2 or 0.5
        return (low, low + reach) if from_zero else (low - reach, low + reach)
    reach = 0.05 * (high - low)
    return (low if from_zero else low - reach), high + reach


def _levels(low: float, high: float) -> list[float]:
    """Round values within a range, from three to six."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
