import csv
import io
import math
import re

import pytest
import torch

from sfseg.labels import LabelSpace
from sfseg.metrics import Scores
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
    assert header == ["class", "mean source-only", "mean adapted", "gain", *domains[1:]]
    assert rows[0] == ["road", "75.00", "100.00", "+25.00", "100.00", "100.00", "100.00"]


def test_a_terminal_without_a_width_has_room_for_five_sets(scores, capsys):
    names = ("mean", "cityscapes", "night", "rain", "snow", "fog", "source")
    every = dict.fromkeys(names, scores["target"])
    show("title", *per_class(every, LABELS, every))
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "mean source-only", "car, parked"))


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


@pytest.mark.parametrize("name", ["callbacks=[default,ema]", "scales=[/x]"])
def test_the_terminal_shows_brackets_as_they_are(name, capsys):
    show(name, ["job"], [[name]])
    assert capsys.readouterr().out.count(name) == 2
