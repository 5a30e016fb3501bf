"""Small plots of shares over time or another quantity, in a grid: curves, fits, moments, spans."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.labels import Colour
from sfseg.report.drawing import Pixels, put_text, shorten, text_width

CURVE, FIT, MOMENT, SPAN = (31, 90, 180), (240, 130, 20), (200, 30, 30), (255, 226, 200)
INK, PALE, PAPER = (30, 30, 30), (225, 225, 225), (255, 255, 255)
HEADER = 50
"""Height of the two lines above a grid."""
CELL = (236, 344)
"""Height and width of a plot with its words."""
AXES = (28, 38, 128, 290)
"""Top, left, height and width of the part of a cell that holds the curves."""
PAD = 4
"""Pixels between the frame and 0, 1, the first and the last time, so that none hides behind it."""
Values = Sequence[float] | NDArray[np.float64]
Points = tuple[Sequence[float], Sequence[float]]
"""Times and shares."""


@dataclass(frozen=True)
class Plot:
    """What is drawn of one class.

    Args:
        name: of the class.
        colour: of the square before its name.
        words: lines below the plot.
        curves: shares at rising times; a NaN interrupts its curve.
        fits: smooth curves, drawn dashed; what is outside [0, 1] is cut off.
        moments: times of vertical lines.
        spans: first and last time of what is shaded.
    """

    name: str
    colour: Colour
    words: Sequence[str] = ()
    curves: Sequence[Points] = ()
    fits: Sequence[Points] = ()
    moments: Sequence[float] = ()
    spans: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Axes:
    """What the axes of a grid's plots stand for.

    Args:
        x: below them.
        y: beside them, at most 4 letters.
        last: time, or whatever it is, at the right end, positive.
    """

    x: str = "passes"
    y: str = "IoU"
    last: float = 1.0


def grid(plots: Sequence[Plot], axes: Axes, *, title: str, legend: Sequence[str]) -> Pixels:
    """Plots in about as many rows as columns, below a title and a legend.

    Args:
        plots: at least one.
        axes: of all of them.
        title: one line.
        legend: what curves, fits, moments and spans are.
    """
    columns = max(2, math.isqrt(len(plots) - 1) + 1)
    rows = -(-len(plots) // columns)
    height, width = CELL
    picture = np.full((HEADER + rows * height, columns * width, 3), PAPER, np.uint8)
    put_text(picture, shorten(title, picture.shape[1] - 16), (8, 18), INK)
    _draw_legend(picture, legend)
    for k, plot in enumerate(plots):
        top, left = HEADER + k // columns * height, k % columns * width
        picture[top : top + height, left : left + width] = draw_plot(plot, axes)
    return picture


def draw_plot(plot: Plot, axes: Axes) -> Pixels:
    """One plot, from 0 to 1 and from 0 to the axes' end: (236, 344, 3) RGB."""
    cell = np.full((*CELL, 3), PAPER, np.uint8)
    top, left, height, width = AXES
    cell[9:21, left : left + 12] = plot.colour
    cv2.rectangle(cell, (left, 9), (left + 11, 20), INK, 1)
    put_text(cell, shorten(plot.name, CELL[1] - left - 26), (left + 18, 20), INK)
    _draw_scales(cell, axes)
    cell[top : top + height, left : left + width] = _draw_axes(plot, axes.last)
    for k, line in enumerate(plot.words):
        put_text(cell, shorten(line, CELL[1] - 16), (8, top + height + 50 + 18 * k), INK)
    return cell


def place(x: Values, y: Values, last: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column and row, within the axes, of times and shares; no share may be NaN."""
    _, _, height, width = AXES
    # A cubic can leave the picture by more than an int32 holds.
    shares = np.clip(np.asarray(y, np.float64), -1, 2)
    columns = PAD + np.rint(np.asarray(x, np.float64) / last * (width - 1 - 2 * PAD))
    rows = PAD + np.rint((1 - shares) * (height - 1 - 2 * PAD))
    return columns.astype(np.int64), rows.astype(np.int64)


def ticks(last: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from 0 up to ``last``, at most ``most``."""
    rough = last / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    return [k * step for k in range(math.floor(last / step * (1 + 1e-9)) + 1)]


def _draw_axes(plot: Plot, last: float) -> Pixels:
    _, _, height, width = AXES
    axes = np.full((height, width, 3), PAPER, np.uint8)
    for first, end in plot.spans:
        (begin, stop), _ = place([first, end], [0, 0], last)
        axes[:, begin : stop + 1] = SPAN
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, (row,) = place([0], [share], last)
        axes[row] = PALE
    # A lone point between two NaN has no line to be seen by; many dots would only hide the line.
    radius = 2 if sum(len(x) for x, _ in plot.curves) <= width // 8 else 1
    for curve in plot.curves:
        _draw_curve(axes, curve, last, radius)
    for fit in plot.fits:
        _draw_dashed(axes, fit, last)
    for moment in plot.moments:
        (column,), _ = place([moment], [0], last)
        axes[:, column] = MOMENT
    cv2.rectangle(axes, (0, 0), (width - 1, height - 1), INK, 1)
    return axes


def _draw_curve(axes: Pixels, curve: Points, last: float, radius: int) -> None:
    x, y = (np.asarray(values, np.float64) for values in curve)
    for run in np.split(np.arange(len(x)), np.flatnonzero(np.isnan(y))):
        known = run[np.isfinite(y[run])]
        points = np.stack(place(x[known], y[known], last), axis=1).astype(np.int32)
        if len(known):
            cv2.polylines(axes, [points], False, CURVE, 1, cv2.LINE_AA)
        for column, row in points.tolist():
            cv2.circle(axes, (column, row), radius, CURVE, cv2.FILLED)


def _draw_dashed(axes: Pixels, fit: Points, last: float) -> None:
    columns, rows = place(*fit, last)
    length = np.append(0, np.hypot(np.diff(columns), np.diff(rows)).cumsum())
    for start in np.arange(0, length[-1], 12):
        ends = [start, min(start + 5, length[-1])]
        x, y = (np.rint(np.interp(ends, length, v)).astype(int).tolist() for v in (columns, rows))
        cv2.line(axes, (x[0], y[0]), (x[1], y[1]), FIT, 2, cv2.LINE_AA)


def _draw_scales(cell: Pixels, axes: Axes) -> None:
    top, left, height, width = AXES
    for share, text in ((0.0, "0"), (0.5, "0.5"), (0.75, axes.y), (1.0, "1")):
        _, (row,) = place([0], [share], axes.last)
        put_text(cell, text, (left - 6 - text_width(text), top + int(row) + 4), INK)
    for time in ticks(axes.last):
        (column,), _ = place([time], [0], axes.last)
        text = f"{time:g}"
        half = text_width(text) // 2
        x = min(left + int(column) - half, CELL[1] - 2 * half - 2)
        cell[top + height : top + height + 4, left + int(column)] = INK
        put_text(cell, text, (x, top + height + 16), INK)
    put_text(cell, axes.x, (left + (width - text_width(axes.x)) // 2, top + height + 30), INK)


def _draw_legend(picture: Pixels, legend: Sequence[str]) -> None:
    x, row = 8, 37
    for text, colour in zip(legend, (CURVE, FIT, MOMENT, SPAN), strict=True):
        sample = picture[row - 6 : row + 6, x : x + 24]
        if colour == SPAN:
            sample[:] = SPAN
        elif colour == MOMENT:
            sample[:, 12] = MOMENT
        else:
            sample[5:7] = colour
        if colour == FIT:
            sample[:, 8:16] = PAPER
        put_text(picture, text, (x + 30, row + 4), INK)
        x += 50 + text_width(text)
