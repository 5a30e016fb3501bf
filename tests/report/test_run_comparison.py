"""Runs beside each other: means over seeds, settings that differ, what must not be compared."""

import json
import statistics
from pathlib import Path

import pytest
from written_run import AFTER, BEFORE, scores_of, write, write_run

from sfseg.errors import DataError
from sfseg.report.pages.comparison import Comparison, compare, context
from sfseg.report.pages.page import render
from sfseg.report.pages.run_files import read_run

OTHER = [[90, 10, 0], [40, 60, 0], [0, 0, 100]]
THIRD = [[90, 10, 0], [30, 70, 0], [0, 0, 100]]


def compared(*folders: Path) -> Comparison:
    return compare([read_run(folder) for folder in folders])


def miou(counts: list[list[int]]) -> float:
    return 100 * scores_of(counts)["summary"]["mIoU"]


def test_seeds_are_one_row_of_mean_and_spread(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"s{k}", seed=k, after=after)
            for k, after in enumerate((AFTER, OTHER, THIRD))]  # fmt: skip
    found = compared(*runs)
    ((group,),) = (table.groups for table in found.tables)
    scores = [miou(AFTER), miou(OTHER), miou(THIRD)]
    assert group.after == f"{statistics.fmean(scores):.2f} +- {statistics.stdev(scores):.2f}"
    assert group.before == f"{miou(BEFORE):.2f} +- 0.00"
    gains = [score - miou(BEFORE) for score in scores]
    assert group.gain == f"{statistics.fmean(gains):+.2f} +- {statistics.stdev(gains):.2f}"
    assert group.seeds == "0, 1, 2" and group.label == "tent-tiny-street"
    assert group.cost("minutes") == 2 and found.differences == []
    assert group.iou("sky") == pytest.approx(1.0) and found.warnings == []


def test_other_settings_are_another_row_and_are_listed(tmp_path: Path) -> None:
    found = compared(
        write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1),
        write_run(tmp_path / "c", config={"lr": 0.1, "only": {"here": 1}}),
    )  # fmt: skip
    assert [len(group.runs) for group in found.groups] == [2, 1]
    assert found.single == [("lr", ["not there", "0.1"]), ("only.here", ["not there", "1"])]
    # Run names are the same, so that settings tell the groups apart.
    assert found.groups[1].label == "tent-tiny-street (lr=0.1, only.here=1)"
    assert "one seed only of tent-tiny-street (lr=0.1" in "\n".join(found.warnings)


def test_other_protocols_are_never_in_one_table(tmp_path: Path) -> None:
    found = compared(
        write_run(tmp_path / "a"), write_run(tmp_path / "b", results={"protocol": "sliding window"})
    )
    assert len(found.tables) == 2
    assert found.warnings[0].startswith("The runs were scored by 2 different protocols")
    # Which step was selected is no other protocol; that one was selected is.
    chosen = [
        write_run(tmp_path / f"o{k}", seed=k, results={
            "protocol": f"p, checkpoint selected with the target's labels (oracle), step {k}",
            "selection": {"mode": "oracle", "step": k}})
        for k in (5, 10)
    ]  # fmt: skip
    found = compared(*chosen)
    assert len(found.groups) == 1 and "an upper bound" in "\n".join(found.warnings)


def test_columns_of_settings_are_in_the_order_of_the_tables(tmp_path: Path) -> None:
    # The second run's table comes last, whatever its place on the command line.
    other = {"protocol": "sliding window"}
    found = compared(
        write_run(tmp_path / "a", config={"lr": 1}),
        write_run(tmp_path / "b", config={"lr": 2}, results=other),
        write_run(tmp_path / "c", config={"lr": 3}),
    )
    assert found.differences == [("lr", ["1", "3", "2"])]
    assert [group.settings["lr"] for group in found.groups] == [1, 3, 2]
    assert [group.label.partition(" ")[2] for group in found.groups] == [
        "(lr=1)", "(lr=3)", "(lr=2)"
    ]  # fmt: skip


def test_a_name_holds_the_settings_that_tell_it_from_its_namesakes(tmp_path: Path) -> None:
    # What a run of another name has or has not says nothing of the other two.
    third = {"run_name": "uni-tiny-street-s0", "a": {"b": 1, "c": 2, "d": 3}}
    found = compared(
        write_run(tmp_path / "x", config={"lr": 1}), write_run(tmp_path / "y", config={"lr": 2}),
        write_run(tmp_path / "z", config={"lr": 1, **third}),
    )  # fmt: skip
    assert [group.label for group in found.groups] == [
        "tent-tiny-street (lr=1)", "tent-tiny-street (lr=2)", "uni-tiny-street"
    ]  # fmt: skip


def test_a_seed_that_is_there_twice_is_no_spread(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 1))]
    assert "several runs of the same seed (0, 1, 1)" in "\n".join(compared(*runs).warnings)
    assert compared(*runs[:2]).warnings == []


def test_a_finished_run_whose_scores_are_damaged_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    write(run / "results.json", "{")
    ((_, why),) = compared(run, write_run(tmp_path / "b")).unscored
    assert why == "finished, 10 steps; results.json is missing or not readable"


def test_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", classes=("road", "car", "tree"))]
    with pytest.raises(DataError, match=r"only in .*a: sky; only in .*b: tree; means over other"):
        compared(*runs)
    turned = write_run(tmp_path / "c", classes=("car", "road", "sky"))
    with pytest.raises(DataError, match="the same names in another order"):
        compared(runs[0], turned)


def test_what_has_no_scores_is_listed_and_what_is_unlike_is_said(tmp_path: Path) -> None:
    none = [[0] * 3] * 3
    found = compared(
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", before=OTHER, seed=1, record={"host": "b"},
                  config={"lr": 2}, results={"images": 3}),
        write_run(tmp_path / "c", finished=False),
        write_run(tmp_path / "d", before=none, after=none),
        write_run(tmp_path / "e", seed=3, record={"versions": {"sfseg": "0.0.1"}}),
    )  # fmt: skip
    assert [why.split(",")[0] for _, why in found.unscored] == [
        "ended before its end", "target has no labels",
    ]  # fmt: skip
    text = "\n".join(found.warnings)
    for words in ("source models differ", "numbers of images: [3, 200]", "2 machines",
                  "several versions of sfseg: 0.0.1"):  # fmt: skip
        assert words in text


def test_settings_that_are_not_known_are_no_reason_to_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = write_run(tmp_path / name)
        (folder / ".hydra" / "config.yaml").unlink()
    found = compared(tmp_path / "a", tmp_path / "b")
    assert len(found.groups) == 2
    assert {group.label for group in found.groups} == {
        f"tent-tiny-street-s0 ({tmp_path / name})" for name in "ab"
    }


def test_the_page_is_escaped_and_whole(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    runs = [
        write_run(tmp_path / f"r{k}", seed=k % 2, classes=("road", evil, "sky"),
                  config={"lr": k // 2, "run_name": evil})
        for k in range(20)
    ]  # fmt: skip
    found = compared(*runs)
    assert len(found.groups) == 10
    text = render("compare.html.j2", context(found)).decode()
    assert text.count("<script>") == 1 and evil not in text
    assert "Comparison of 20 runs" in text and "http" not in text.replace("http-equiv", "")
    few = render("compare.html.j2", context(compared(*runs[:6]))).decode()
    assert few.count('<rect class="d2"') >= 3
    write(tmp_path / "r0" / "results.json", json.dumps({}))
    assert (
        "None of the runs has scores"
        in render("compare.html.j2", context(compared(runs[0], runs[0]))).decode()
    )
