import csv
import io
import math
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from sfseg.labels import LabelSpace
from sfseg.metrics import Scores
from sfseg.report import tables
from sfseg.report.tables import mean_spread, per_class, percent, show, to_csv, to_markdown

LABELS = LabelSpace("t", ("road", "car, parked", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))


@pytest.fixture
def scores():
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    return {"target": Scores.of(counts, LABELS), "source": Scores.of(counts * 2, LABELS)}


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.00"), (1, "100.00"), (0.61234, "61.23"), (math.nan, "-"), (1 / 3, "33.33")],
)
def test_percent(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ([0.5], "50.00"),
        ([math.nan], "-"),
        ([0.5, 0.5], "50.00 +- 0.00"),
        # mean 0.6, sample deviation sqrt(((0.1)^2 + 0 + (0.1)^2) / 2) = 0.1
        ([0.5, 0.6, 0.7], "60.00 +- 10.00"),
    ],
)
def test_mean_and_spread(shares, text):
    assert mean_spread(shares) == text


def test_the_sign_of_a_mean_is_shown_not_that_of_its_spread():
    assert mean_spread([0.01, 0.03], signed=True) == "+2.00 +- 1.41"
    assert mean_spread([-0.01], signed=True) == "-1.00"


@pytest.mark.parametrize("shares", [[math.nan, 0.5], [0.5, math.nan], [math.nan, math.nan]])
def test_spread_of_undefined_scores_is_a_dash(shares):
    assert "-" in mean_spread(shares)


def test_one_row_a_class_and_a_mean_one_column_a_domain(scores):
    header, rows = per_class(scores, LABELS)
    assert header == ["class", "target IoU", "source IoU"]
    assert rows == [
        ["road", "75.00", "75.00"],
        ["car, parked", "80.00", "80.00"],
        ["sky", "-", "-"],
        ["mIoU", "77.50", "77.50"],
        ["pixel_accuracy", "87.50", "87.50"],
        ["mean_accuracy", "87.50", "87.50"],
    ]


def test_of_several_sets_the_mean_alone_shows_what_was_gained(scores):
    after = Scores.of(torch.tensor([[4, 0, 0], [0, 4, 0], [0, 0, 0]]), LABELS)
    before = scores["target"]
    domains = ("mean", "rain", "fog", "source")
    plain, _ = per_class(dict.fromkeys(domains, after), LABELS)
    assert plain == ["class", "mean IoU", "rain IoU", "fog IoU", "source IoU"]
    header, rows = per_class(dict.fromkeys(domains, after), LABELS, dict.fromkeys(domains, before))
    assert header == ["class", "mean source-only", "mean adapted", "gain", *plain[2:]]
    assert rows[0] == ["road", "75.00", "100.00", "+25.00", "100.00", "100.00", "100.00"]


def test_a_terminal_without_a_width_has_room_for_five_sets(scores, capsys):
    names = ("mean", "cityscapes", "night", "rain", "snow", "fog", "source")
    every = dict.fromkeys(names, scores["target"])
    show("title", *per_class(every, LABELS, every))
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "mean source-only", "car, parked"))
    assert out.count("car, parked") == 1


def test_csv_reads_back(scores):
    header, rows = per_class(scores, LABELS)
    assert list(csv.reader(io.StringIO(to_csv(header, rows)))) == [header, *rows]


def test_markdown_aligns_numbers_right():
    assert to_markdown(["class", "IoU", "n"], [["road", "75.00", "1"]]) == (
        "| class | IoU | n |\n| --- | ---: | ---: |\n| road | 75.00 | 1 |\n"
    )


NAMES = [
    "car|truck", "a | b", "a\\|b", "*all*", "_x_", "a_b", "<b>", "`code`", "[red]x", "[a](b)",
    "~~no~~", ":car:", "a/b, c; d", "Straße 道路", "end\\", "$x$", "&amp;", "long " * 30 + "name",
]  # fmt: skip
"""Names that some file or screen might take for more than text."""


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_cell_of_markdown(name):
    text = to_markdown(["class", "IoU"], [[name, "75.00"]])
    cells = text.splitlines()[2][2:-2].split(" | ")
    assert len(text.splitlines()) == 3
    assert re.sub(r"\\(.)", r"\1", cells[0]) == name and cells[1:] == ["75.00"]


def test_markup_of_markdown_is_escaped():
    text = to_markdown(["class"], [["a|b"], ["*x*"], ["_y_ a_b"], ["<i>"], ["c\nd"]])
    assert text.splitlines()[2:] == [
        r"| a\|b |", r"| \*x\* |", r"| \_y\_ a_b |", r"| \<i> |", "| c d |"
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives_csv_and_the_terminal(name, capsys):
    assert list(csv.reader(io.StringIO(to_csv(["class"], [[name]])))) == [["class"], [name]]
    show("t", ["class", "IoU"], [[name, "75.00"]])
    shown = "".join(line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines()
                    if line.startswith("│"))  # fmt: skip
    assert shown.replace(" ", "") == name.replace(" ", "")


def test_the_terminal_shows_every_cell(scores, capsys):
    header, rows = per_class(scores, LABELS)
    show("results of run 7", header, rows)
    shown = capsys.readouterr().out
    assert "results of run 7" in shown
    for cell in [*header, *(cell for row in rows for cell in row)]:
        assert cell in shown


@pytest.fixture
def wide(monkeypatch):
    """Sets how wide the terminal is."""

    def set_width(width):
        monkeypatch.setattr(tables, "console", lambda: Console(width=width))

    return set_width


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_number_and_no_name_is_cut_where_there_is_no_room(width, wide, capsys):
    names = ["method=daformer data=x", "traffic light", "motorcycle", "道路"]
    header = ["job", "runs", *(f"style{k} mIoU" for k in range(5)), "source-only mIoU"]
    rows = [[name, "3", *[f"{10 * k + n}.25 +- 0.45" for k in range(6)]]
            for n, name in enumerate(names)]  # fmt: skip
    wide(width)
    show("title", header, rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "title" and not any("title" in line for line in lines[1:])
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    parts = [cells for cells in shown if cells[0] in names[1:]]
    for name, *numbers in rows[1:]:
        assert [c for cells in parts if cells[0] == name for c in cells[1:]] == numbers
    if width > 40:
        assert all(cell_len(line) <= width for line in lines)
        assert any(cells[0] == names[0] for cells in shown)
    words = [word for line in lines if "┃" in line for word in re.sub("┃", " ", line).split()]
    assert {"style4", "mIoU", "source-only", "runs"} <= set(words)


def test_a_table_that_fits_is_one_and_its_titles_stay_on_a_line(wide, capsys):
    wide(30)
    show("t", ["class", "mean IoU", "x"], [["road", "75.00", "1.00"]])
    out = capsys.readouterr().out
    assert "┃ class ┃ mean IoU ┃    x ┃" in out and "│ road  │    75.00 │ 1.00 │" in out


def test_a_name_that_alone_fills_the_terminal_folds_at_spaces(wide, capsys):
    wide(30)
    show("t", ["job", "mIoU"], [["method=daformer data=folder", "61.25 +- 0.45"]])
    out = capsys.readouterr().out
    assert "method=daformer" in out and "data=folder" in out and "61.25 +- 0.45" in out


@pytest.mark.parametrize("name", ["callbacks=[default,ema]", "scales=[/x]"])
def test_the_terminal_shows_brackets_as_they_are(name, capsys):
    show(name, ["job"], [[name]])
    assert capsys.readouterr().out.count(name) == 2
