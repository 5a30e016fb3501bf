import numpy as np
import pytest

from sfseg.report.drawing import text_width
from sfseg.report.plots import (
    AXES,
    CELL,
    CURVE,
    FIT,
    HEADER,
    MOMENT,
    PAD,
    SPAN,
    Axes,
    Plot,
    draw_plot,
    grid,
    shorten,
    ticks,
)  # fmt: skip

LEGEND = ("curve", "fit", "moment", "span")


def pixel(x, y, last):
    """Row and column in the cell of a time and a share: linear between the padded corners."""
    top, left, height, width = AXES
    right, bottom = width - 1 - PAD, height - 1 - PAD
    return (
        top + round(np.interp(y, [0, 1], [bottom, PAD])),
        left + round(np.interp(x, [0, last], [PAD, right])),
    )


def has(cell, colour):
    """Where the part for the curves has about a colour, (row, column) in the cell."""
    top, left, height, width = AXES
    difference = np.abs(cell[top : top + height, left : left + width].astype(int) - colour)
    # Smooth lines are blended with what is below them.
    rows, columns = np.nonzero((difference < 20).all(-1))
    return set(zip((rows + top).tolist(), (columns + left).tolist(), strict=True))


@pytest.mark.parametrize("last", [0.067, 1.0, 8.0, 12345.0])
def test_every_point_has_its_dot(last):
    x, y = [0.13 * last, 0.4 * last, last], [0.0, 0.62, 1.0]
    drawn = has(draw_plot(Plot("road", (1, 2, 3), curves=[(x, y)]), Axes(last=last)), CURVE)
    for point in zip(x, y, strict=True):
        row, column = pixel(*point, last)
        assert {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} <= drawn


def test_a_line_joins_the_points_of_a_curve_and_no_others():
    one, two = ([0.0, 4.0], [0.5, 0.5]), ([6.0, 10.0], [0.5, 0.5])
    drawn = has(draw_plot(Plot("road", (1, 2, 3), curves=[one, two]), Axes(last=10.0)), CURVE)
    for x, expected in [(2, True), (3, True), (4.9, False), (5.1, False), (8, True)]:
        assert (pixel(x, 0.5, 10) in drawn) == expected, x


def test_nan_interrupts_a_curve():
    x, y = [0, 1, 2, 3, 4, 5, 6], [np.nan, 0.5, np.nan, 0.5, 0.5, np.nan, np.nan]
    drawn = has(draw_plot(Plot("road", (1, 2, 3), curves=[(x, y)]), Axes(last=6.0)), CURVE)
    for time, expected in [(1, True), (1.5, False), (2, False), (2.5, False), (3.5, True)]:
        assert (pixel(time, 0.5, 6) in drawn) == expected, time
    nothing = Plot("road", (1, 2, 3), curves=[(x, [np.nan] * 7), ([], [])])
    assert not has(draw_plot(nothing, Axes(last=6.0)), CURVE)


def test_moments_and_spans_are_where_they_belong():
    cell = draw_plot(Plot("road", (1, 2, 3), moments=[2.0], spans=[(2.0, 5.0)]), Axes(last=10.0))
    top, _, height, _ = AXES
    start, end = pixel(2, 0, 10)[1], pixel(5, 0, 10)[1]
    inside = range(top + 1, top + height - 1)  # the frame is drawn last
    assert has(cell, MOMENT) == {(row, start) for row in inside}
    row = pixel(0, 0.4, 10)[0]
    assert {c for r, c in has(cell, SPAN) if r == row} == set(range(start + 1, end + 1))


def test_fits_are_dashed_and_cut_off():
    x = np.linspace(0, 10, 200)
    cell = draw_plot(Plot("road", (1, 2, 3), fits=[(x, np.full(200, 0.4))]), Axes(last=10.0))
    row, first = pixel(0, 0.4, 10)
    dashes = sorted(column for r, column in has(cell, FIT) if r == row)
    last = pixel(10, 0.4, 10)[1]
    assert first in dashes and 0.3 < len(dashes) / (last - first) < 0.7
    steep = Plot("road", (1, 2, 3), fits=[(x, 1e12 * (x - 5))])
    cell, empty = (
        draw_plot(steep, Axes(last=10.0)),
        draw_plot(Plot("road", (1, 2, 3)), Axes(last=10.0)),
    )
    top, left, height, width = AXES
    cell[top : top + height, left : left + width] = 0
    empty[top : top + height, left : left + width] = 0
    np.testing.assert_array_equal(cell, empty)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.067, [0, 0.02, 0.04, 0.06]),
        (3.0, [0, 1, 2, 3]),
        (12345.0, [0, 5000, 10000]),
        (26.9, [0, 10, 20]),
    ],
)
def test_ticks_are_round_and_few(last, expected):
    np.testing.assert_allclose(ticks(last), expected, atol=1e-12)


@pytest.mark.parametrize("last", np.geomspace(1e-3, 1e5, 60).tolist())
def test_tick_labels_do_not_touch(last):
    found = ticks(last)
    assert 2 <= len(found) <= 6 and found[-1] <= last * (1 + 1e-9)
    centres = [pixel(t, 0, last)[1] for t in found]
    widths = [text_width(f"{t:g}") for t in found]
    for k in range(len(found) - 1):
        assert centres[k + 1] - centres[k] > (widths[k] + widths[k + 1]) / 2 + 4


def test_texts_are_shortened_to_fit():
    assert shorten("road", 100) == "road"
    text = shorten("a name much too long for one line", 100)
    assert text.endswith("...") and "a name much too long".startswith(text[:-3])
    assert text_width(text) <= 100 < text_width("a name much too long for one line")


def test_long_words_stay_in_their_cell():
    plot = Plot("class " * 30, (1, 2, 3), words=["words " * 30, "more words " * 30])
    cell = draw_plot(plot, Axes(last=1.0))
    assert (cell[:, -4:] == 255).all() and (cell[:, :4] == 255).all()
    assert (cell[-3:] == 255).all() and (cell[:3] == 255).all()


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 2, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (19, 5, 4)]
)
def test_a_grid_has_a_cell_for_every_plot(count, columns, rows):
    plots = [Plot(f"class {k}", (k, 100, 200)) for k in range(count)]
    picture = grid(plots, Axes(last=2.0), title="many words " * 40, legend=LEGEND)
    height, width = CELL
    assert picture.shape == (HEADER + rows * height, columns * width, 3)
    assert (picture[:HEADER, -4:] == 255).all()
    for k, plot in enumerate(plots):
        top, left = HEADER + k // columns * height, k % columns * width
        cell = picture[top : top + height, left : left + width]
        np.testing.assert_array_equal(cell, draw_plot(plot, Axes(last=2.0)))
        assert (cell[12, AXES[1] + 3] == plot.colour).all()
    rest = picture[HEADER + (rows - 1) * height :, (count - 1) % columns * width + width :]
    assert (rest == 255).all()


def test_the_legend_shows_the_colours():
    picture = grid([Plot("road", (1, 2, 3))], Axes(), title="", legend=LEGEND)[:HEADER]
    shown = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
    assert shown >= {CURVE, FIT, MOMENT, SPAN}
