import xml.etree.ElementTree as ET
from itertools import combinations

import numpy as np
import pytest
from handwritten import COST  # noqa: F401  (it says where the scripts are)
from results_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Box,
    Point,
    axes_of,
    chart,
    frontier,
    labels,
)

SVG = "{http://www.w3.org/2000/svg}"
CROWDED = [Point(f"mean_teacher_{k}", 1 + 0.01 * k, 10 + 0.1 * (k % 3), 2.0) for k in range(14)]


def some_points(seed: int) -> list[Point]:
    """A dozen, two of them at the same place."""
    rng = np.random.default_rng(seed)
    drawn = [
        Point("x" * int(rng.integers(2, 20)), *rng.uniform((0.1, -5, 0), (9, 12, 3)))
        for _ in range(11)
    ]
    return [*drawn, drawn[0]._replace(words="the same")]


@pytest.mark.parametrize("points", [CROWDED, *map(some_points, range(8))])
def test_labels_overlap_neither_each_other_nor_points(points: list[Point]) -> None:
    columns, lines = axes_of(points)
    boxes = labels(points, columns, lines)
    inside = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    for a, b in combinations(boxes, 2):
        assert min(a.right, b.right) <= max(a.left, b.left) or min(a.bottom, b.bottom) <= max(
            a.top, b.top
        )
    for box in boxes:
        assert inside.left <= box.left and box.right <= inside.right
        assert inside.top <= box.top and box.bottom <= inside.bottom
        for point in points:
            x, y = columns(point.cost), lines(point.gain)
            assert not (box.left < x < box.right and box.top < y < box.bottom)


def test_labels_without_room_are_an_error() -> None:
    points = [Point("a row of a very long name" * 2, 1 + k, 1 + k, 0) for k in range(40)]
    with pytest.raises(ValueError, match="40 labels have no room"):
        labels(points, *axes_of(points))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_beats_the_frontier(seed: int) -> None:
    points = some_points(seed)
    beaten = {
        p for p in points for q in points
        if q.cost <= p.cost and q.gain >= p.gain and (q.cost, q.gain) != (p.cost, p.gain)
    }  # fmt: skip
    places = {(p.cost, p.gain) for p in set(points) - beaten}
    found = frontier(points)
    assert {(p.cost, p.gain) for p in found} == places
    assert found == sorted(found, key=lambda p: p.cost)


def test_axes_show_equal_steps_or_equal_factors() -> None:
    plain, log = Axis(2, 6, 100, 500), Axis(0.1, 10, 100, 500, is_log=True)
    assert [plain(v) for v in (2, 3, 6)] == pytest.approx([100, 200, 500])
    assert [log(v) for v in (0.1, 1, 10)] == pytest.approx([100, 300, 500])
    assert plain.ticks() == pytest.approx([2, 3, 4, 5, 6])
    assert log.ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])


def test_a_chart_holds_every_point_and_its_words() -> None:
    points = [Point("a<b & c", 1.0, 5.0, 0.5), Point("far", 40.0, -2.0, 0.0)]
    root = ET.fromstring(chart({"CPU minutes": points, "peak MiB": points[:1]}, y="gain"))
    assert len(root.findall(f".//{SVG}circle")) == 3
    said = [text.text for text in root.iter(f"{SVG}text")]
    assert said.count("a<b & c") == 2 and said.count("far") == 1
    assert {"CPU minutes", "peak MiB"} <= set(said)
