"""Curves of many points keep their extremes; charts keep within their frame."""

import math

import numpy as np
import pytest

from sfseg.report.pages.curves import HEIGHT, LEFT, POINTS, TOP, WIDTH, Chart, chart, thinned


def places(one: Chart) -> np.ndarray:
    words = " ".join(piece for curve in one.curves for piece in curve.pieces)
    return np.array([[float(x) for x in place.split(",")] for place in words.split()])


def test_extremes_and_ends_of_40000_points_stay() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=40_000)
    y[[12_345, 30_001]] = 40.0, -50.0
    x = np.arange(40_000.0)
    few_x, few_y = thinned(x, y)
    assert len(few_x) <= 2 * POINTS + 2 and (np.diff(few_x) > 0).all()
    assert (y[few_x.astype(int)] == few_y).all()
    assert (few_x[0], few_x[-1]) == (0, 39_999)
    assert (few_y.max(), few_y.min()) == (40.0, -50.0)
    # Of every group of neighbours the range is that of all its points.
    for begin in range(0, 40_000, 4000):
        inside = (few_x >= begin) & (few_x < begin + 4000)
        assert few_y[inside].max() == y[begin : begin + 4000].max()


def test_few_points_stay_as_they_are_and_what_is_not_finite_goes() -> None:
    x, y = thinned([0, 1, 2, math.nan, 4], [3, math.nan, 5, 6, math.inf])
    assert x.tolist() == [0, 2] and y.tolist() == [3, 5]


@pytest.mark.parametrize(
    "values",
    [
        [1.0], [0.0], [2.0, 2.0], [1e308, -1e308], [1e-300, 2e-300], [-5, 7, 3],
        [1e20, 1e20 * (1 + 1e-15)],
    ],
)  # fmt: skip
def test_a_chart_keeps_within_its_frame(values: list[float]) -> None:
    one = chart("a", {"b": (range(len(values)), values)}, last=1)
    assert one is not None and 1 <= len(one.y) <= 8 and one.x
    found = places(one)
    assert np.isfinite(found).all()
    assert (found >= [LEFT - 0.1, TOP - 0.1]).all() and (found <= [WIDTH, HEIGHT]).all()
    assert all(TOP - 0.1 <= place <= HEIGHT for place, _ in one.y)


def test_shares_are_percent_from_zero_and_losses_are_not() -> None:
    share = chart("IoU", {"t": ([0, 10], [0.25, 0.5])}, last=10, percent=True)
    assert share is not None and share.y[0][1] == "0"
    assert (share.curves[0].first, share.curves[0].last) == ("25", "50")
    assert places(share)[0, 1] > places(share)[1, 1]  # up is more
    assert chart("a", {"b": ([0.0], [math.nan])}, last=1) is None
    assert chart("a", {}, last=1) is None


def test_steps_logged_again_after_a_restart_come_in_order() -> None:
    one = chart("a", {"b": ([0, 1, 2, 1, 2, 3], [5, 4, 3, 4, 3, 2])}, last=3)
    assert one is not None and (np.diff(places(one)[:, 0]) >= 0).all()
    lossy = chart("a", {"b": ([0, 1], [1.0, math.inf])}, last=3)
    assert lossy is not None and "1 values are not finite" in lossy.note
