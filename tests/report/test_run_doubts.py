"""Alarms and doubts are there when they hold, and only then."""

import json
from pathlib import Path
from typing import Any

import pytest
from written_run import LABEL_FREE, write, write_metrics, write_run

from sfseg.report.pages.alarms import alarms
from sfseg.report.pages.classes import classes_of, shares
from sfseg.report.pages.doubts import doubts
from sfseg.report.pages.run_files import read_run

GOOD = [[95, 5, 0], [5, 85, 10], [0, 0, 100]]


def said(folder: Path) -> str:
    return "\n".join(doubts(read_run(folder)))


def alarmed(folder: Path) -> str:
    return "\n".join(alarms(read_run(folder)))


def last_row(folder: Path, text: str) -> None:
    *rows, _ = LABEL_FREE.splitlines()
    write(folder / "label_free.csv", "\n".join([*rows, text, ""]))


def test_a_good_run_has_one_seed_and_no_alarm(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", after=GOOD)
    last_row(folder, "10,10,0.71,0.85,4,0.3,3,,False,0.7")
    assert alarmed(folder) == ""
    (only,) = doubts(read_run(folder))
    assert only.startswith("One run with one seed (0)")


def test_classes_that_fell_and_scores_that_fell(tmp_path: Path) -> None:
    text = said(write_run(tmp_path / "run"))
    assert "got worse" not in text
    # road: 80 of 130 before, 70 of 160 after; car: 60 of 130, then 40 of 130.
    worse = write_run(tmp_path / "worse", after=[[70, 30, 0], [60, 40, 0], [0, 0, 100]])
    assert "target: classes that got worse: road (-17.79), car (-15.38)." in said(worse)
    hidden = write_run(tmp_path / "hidden", after=[[100, 0, 0], [45, 55, 0], [0, 0, 100]])
    assert "the mean rose and hides classes that got worse" not in said(hidden)
    hidden = write_run(tmp_path / "more", after=[[100, 0, 0], [60, 40, 0], [0, 0, 100]])
    assert "the mean rose and hides classes that got worse: car (-6.15)." in said(hidden)
    assert "adaptation has made the model worse" in alarmed(
        write_run(tmp_path / "bad", after=[[50, 50, 0], [50, 50, 0], [50, 0, 50]])
    )


def test_a_class_that_vanished(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", after=[[100, 0, 0], [100, 0, 0], [0, 0, 100]])
    assert "predicts no more car (less than 0.1 %" in alarmed(folder)
    assert "not one pixel of car is found (IoU 0)" in said(folder)
    (folder / "confusion.json").unlink()  # an older run: by IoU alone
    assert "predicts no more car" in alarmed(folder)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("10,10,0.3,0.9,4,0.3,1,car;sky,True,", "Collapse: at step 10 fewer than half"),
        ("10,10,0.3,0.9,4,0.3,1,car;sky,False,", "images car, sky vanished"),
        ('10,10,0.69,0.9,4,0.3,1,"""a;b"";sky",False,', "images a;b, sky vanished"),
        ("10,10,0.6,0.9,4,0.3,3,,False,", "fallen by 10.00 points since step 5"),
        ("10,10,0.71,0.9,4,0.01,3,,False,", "Entropy collapse: the mean normalised entropy fell"),
    ],
)
def test_the_label_free_score_alarms(tmp_path: Path, row: str, words: str) -> None:
    folder = write_run(tmp_path / "run", after=GOOD)
    last_row(folder, row)
    assert words in alarmed(folder)


def test_losses_that_are_not_finite(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", after=GOOD)
    write(folder / "csv" / "metrics.csv", "step,train/loss\n0,1\n1,nan\n2,inf\n")
    (folder / "nonfinite").mkdir()
    assert "2 of 3 logged losses are not finite" in alarmed(folder)
    assert "replay=" in alarmed(folder)


RECORDS: list[tuple[dict[str, Any], str]] = [
    ({"versions": {"sfseg": "0.0.1"}}, "The run is of sfseg 0.0.1, this page of"),
    ({"versions": ["odd"]}, "does not say which version"),
    ({"git": {"commit": "abcdef0123456789", "dirty": True}}, "differed from commit abcdef0123,"),
    ({"restarts": [{}, {}]}, "continued 2 times"),
]


@pytest.mark.parametrize(("record", "words"), RECORDS)
def test_where_a_run_comes_from(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    assert words not in said(write_run(tmp_path / "plain"))
    assert words in said(write_run(tmp_path / "run", record=record))


def test_how_scores_were_chosen_and_of_what(tmp_path: Path) -> None:
    text = said(write_run(tmp_path / "run", results={
        "images": 12, "selection": {"mode": "oracle", "step": 5}}))  # fmt: skip
    assert "step 5 were picked with the target's labels" in text
    assert "prefers step" not in text  # these are not the last weights
    assert "only 12 images" in text
    assert "prefers step 5 (0.700) to the last one, 10 (0.690)" in said(write_run(tmp_path / "b"))
    upper = write_run(tmp_path / "c", config={"method": {"needs": ["target_labels"]}})
    assert "an upper bound, no adaptation" in said(upper)
    drawn = {"scenes": {"target_eval": {"_target_": "sfseg.data.toyscapes.scenes.Toyscapes"}}}
    assert "drawn scenes" in said(write_run(tmp_path / "d", config={"data": drawn}))
    assert "no scores of the source model" in said(write_run(tmp_path / "e", before=None))


def test_rare_and_absent_classes(tmp_path: Path) -> None:
    counts = [[100_000, 0, 0], [10, 5, 0], [0, 0, 0]]
    text = said(write_run(tmp_path / "run", before=counts, after=counts))
    assert "car have less than 0.1 %" in text and "sky do not occur in the labels" in text


def test_a_target_without_labels(tmp_path: Path) -> None:
    none = [[0] * 3] * 3
    folder = write_run(tmp_path / "run", before=none, after=none)
    assert "target has no labels" in said(folder)
    assert "got worse" not in said(folder) and alarmed(folder) == ""


def test_a_run_without_an_end(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    assert "The run has not ended: step 10 of 10" in said(folder)
    assert "one seed" not in said(folder)
    write(folder / "cost.json", "{")
    assert "Not used, because it is damaged: cost.json" in said(folder)


def test_the_largest_confusions_come_first(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    one = classes_of(run, "target")
    found = [(c.label, c.prediction, c.before, c.after) for c in one.confusions]
    assert found == [
        ("car", "road", 0.3, 0.5), ("road", "car", 0.2, 0.05),
        ("car", "sky", 0.1, 0.0), ("sky", "car", 0.1, 0.0),
    ]  # fmt: skip
    assert one.matrix is not None and [sum(row) for row in one.matrix] == pytest.approx([1] * 3)
    assert one.rows[1].labelled == pytest.approx(1 / 3)
    assert one.rows[1].predicted == pytest.approx(55 / 300)
    assert shares(None) is None


def test_means_over_sets_have_no_matrix(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "results.json").read_text())
    write(folder / "results.json", json.dumps({"mean": content["target"], **content}))
    run = read_run(folder)
    assert classes_of(run, "mean").matrix is None and run.judged == "mean"
    write_metrics(folder, range(3))
