"""Gain against cost as a picture, SVG: points, their spread, and those that nothing beats."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple
from xml.sax.saxutils import escape

from sfseg.report.plots import ticks

WIDTH, HEIGHT = 480, 400
"""Of a panel."""
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 55
"""Around the part of a panel that holds the points."""
SIZE, LETTER = 12, 6.9
"""Height of the letters, and what the widest of them take on average."""
RADIUS = 4
BLUE, ORANGE, INK, PALE = "#1f5ab4", "#d66a00", "#1e1e1e", "#e1e1e1"
HALO = 'stroke="white" stroke-width="3" paint-order="stroke"'
"""Of letters that lie on lines."""


class Point(NamedTuple):
    """A row of a table.

    words: its label.
    cost: positive.
    gain: mean over the seeds.
    spread: standard deviation, 0 where there is one seed.
    """

    words: str
    cost: float
    gain: float
    spread: float


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether they share more than a border."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    low, high: values at its ends.
    start, stop: pixels there.
    is_log: whether equal factors take equal room.
    """

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log(v) if self.is_log else v) for v in (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values between its ends."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [f * 10.0**p for p, f in product(powers, (1, 2, 5))]
        else:
            step = ticks(self.high - self.low)[1]
            first = math.ceil(self.low / step)
            found = [step * k for k in range(first, math.floor(self.high / step) + 1)]
        return [value for value in found if self.low <= value <= self.high]


def chart(panels: Mapping[str, Sequence[Point]], *, y: str) -> str:
    """A panel for each cost, side by side.

    Args:
        panels: points by the name of their cost, at least one in each.
        y: what is gained.
    """
    parts = [
        f'<g transform="translate({WIDTH * k} 0)">{"".join(panel(points, x, y))}</g>'
        for k, (x, points) in enumerate(panels.items())
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" font-family="DejaVu Sans, Verdana, '
        f'sans-serif" font-size="{SIZE}">\n<rect width="100%" height="100%" fill="white"/>\n{body}'
        "\n</svg>\n"
    )


def panel(points: Sequence[Point], x: str, y: str) -> Iterator[str]:
    """Elements of one panel."""
    columns, lines = axes_of(points)
    yield from _scales(columns, lines, x, y)
    front = frontier(points)
    path = [(columns(p.cost), lines(p.gain)) for p in front]
    if len(path) > 1:
        corners = [path[0]]
        for before, after in pairwise(path):
            corners += [(after[0], before[1]), after]
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        yield f'<polyline points="{joined}" fill="none" stroke="{ORANGE}" stroke-dasharray="5 4"/>'
    for point in points:
        a, b = columns(point.cost), lines(point.gain)
        colour = ORANGE if point in front else BLUE
        ends = lines(point.gain + point.spread), lines(point.gain - point.spread)
        yield (
            f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" '
            f'stroke="{colour}" stroke-opacity="0.45"/>'
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{RADIUS}" fill="{colour}"/>'
        )
    for point, box in zip(points, labels(points, columns, lines), strict=True):
        a, b = columns(point.cost), lines(point.gain)
        near = _nearest(box, (a, b))
        if math.dist(near, (a, b)) > 3 * RADIUS:
            yield (
                f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{near[0]:.1f}" y2="{near[1]:.1f}" '
                f'stroke="{INK}" stroke-width="0.6"/>'
            )
        yield (
            f'<text x="{box.left:.1f}" y="{box.bottom - 3:.1f}" fill="{INK}" {HALO}>'
            f"{escape(point.words)}</text>"
        )


def axes_of(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Of a panel; costs that differ by more than a factor of ten are shown by their logarithm."""
    costs = [p.cost for p in points]
    ends = [e for p in points for e in (p.gain - p.spread, p.gain + p.spread)]
    is_log = max(costs) > 10 * min(costs)
    room = (max(costs) - min(costs)) / 8 or max(costs) / 2
    low, high = (
        (min(costs) / 1.5, max(costs) * 1.5) if is_log else (min(costs) - room, max(costs) + room)
    )
    pad = (max(ends) - min(ends)) / 10 or 1
    return (
        Axis(low, high, LEFT, WIDTH - RIGHT, is_log),
        Axis(min(0, min(ends)) - pad, max(0, max(ends)) + pad, HEIGHT - BOTTOM, TOP),
    )


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in gain at the same or a lower cost, the cheapest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.gain)):
        if not found or point.gain > found[-1].gain:
            found.append(point)
    return found


def labels(points: Sequence[Point], columns: Axis, lines: Axis) -> list[Box]:
    """Where labels have room: beside their points, over no other label and no point."""
    dots = [(columns(p.cost), lines(p.gain)) for p in points]
    taken = [Box(a - RADIUS, b - RADIUS, a + RADIUS, b + RADIUS) for a, b in dots]
    bars = [
        Box(a - 1, lines(p.gain + p.spread), a + 1, lines(p.gain - p.spread))
        for p, (a, _) in zip(points, dots, strict=True)
    ]
    found: dict[int, Box] = {}
    # Those that have neighbours choose first.
    order = sorted(range(len(dots)), key=lambda k: sum(math.dist(dots[k], d) for d in dots))
    for k in order:
        places = [b for b in _places(dots[k], len(points[k].words)) if not _meets(b, taken)]
        if not places:
            raise ValueError(f"{len(points)} labels have no room in a panel; show fewer rows")
        others = [dot for dot in dots if dot != dots[k]]
        clear = (b for b in places if not (_meets(b, bars) or _leads_over(b, dots[k], others)))
        found[k] = next(clear, places[0])
        taken.append(found[k])
    return [found[k] for k in range(len(points))]


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(box.meets(other) for other in others)


def _nearest(box: Box, dot: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to another point."""
    return min(max(dot[0], box.left), box.right), min(max(dot[1], box.top), box.bottom)


def _leads_over(box: Box, dot: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether the line from a label to its point runs over another point."""
    end = _nearest(box, dot)
    steps = [(dot[0] + k / 20 * (end[0] - dot[0]), dot[1] + k / 20 * (end[1] - dot[1]))
             for k in range(21)]  # fmt: skip
    return any(math.dist(step, other) < RADIUS + 1 for step in steps for other in others)


def _places(dot: tuple[float, float], letters: int) -> Iterator[Box]:
    """Places for a label within the panel, the nearest to its point first."""
    width, height = letters * LETTER, SIZE + 3
    for away in range(RADIUS + 3, 300, 5):
        for turn in (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200):
            x = dot[0] + away * math.cos(math.radians(turn))
            y = dot[1] - away * math.sin(math.radians(turn))
            right, down = math.cos(math.radians(turn)), -math.sin(math.radians(turn))
            left = x - width / 2 * (1 - right)
            top = y - height / 2 * (1 - down)
            box = Box(left, top, left + width, top + height)
            is_inside = left > LEFT and box.right < WIDTH - RIGHT
            if is_inside and top > TOP and box.bottom < HEIGHT - BOTTOM:
                yield box


def _scales(columns: Axis, lines: Axis, x: str, y: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in lines.ticks():
        b = lines(value)
        yield (
            f'<line x1="{LEFT}" x2="{right}" y1="{b:.1f}" y2="{b:.1f}" '
            f'stroke="{INK if not value else PALE}"/>'
            f'<text x="{LEFT - 8}" y="{b + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in columns.ticks():
        a = columns(value)
        yield (
            f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{bottom}" stroke="{PALE}"/>'
            f'<text x="{a:.1f}" y="{bottom + 18}" text-anchor="middle">{value:,g}</text>'
        )
    yield (
        f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" '
        f'stroke="{INK}"/><text x="{(LEFT + right) / 2}" y="{bottom + 40}" '
        f'text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(16 {(TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>'
    )
