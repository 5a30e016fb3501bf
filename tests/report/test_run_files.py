"""Folders of runs are read whatever state they are in, and strangers' folders are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from written_run import AFTER, BEFORE, write, write_metrics, write_run

from sfseg.errors import DataError
from sfseg.report.pages.csv_files import read_columns, read_rows
from sfseg.report.pages.run_files import read_run
from sfseg.report.pages.sections import context
from sfseg.report.pages.state import reached, state_of
from sfseg.storage.lock import WriterLock, is_held


def test_all_that_a_run_wrote_is_found(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert run.damaged == [] and run.is_finished and not run.is_open
    assert run.confusion == {"target": {"counts": AFTER, "source_only": BEFORE}}
    assert run.images == {"target": 200} and run.judged == "target"
    assert run.scores["target"].summary["pixel_accuracy"] == pytest.approx(245 / 300)
    assert list(run.panels) == [0, 10] and run.setting("trainer.max_steps") == 10
    assert run.setting("trainer.no.such") is None
    assert list(run.metrics.values["train/loss"]) == pytest.approx([1 / k for k in range(1, 11)])
    assert run.metrics.last_step == 9 and reached(run) == 10
    assert state_of(run) == "finished, 10 steps"


def test_a_run_that_was_killed_says_where(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", finished=False))
    assert not run.scores and run.damaged == []
    # The picture of step 10 was drawn, as one of a run that dies before its scores are.
    assert state_of(run).startswith("ended before its end, after step 10 of 10")
    (run.folder / "panels" / "step_000010.png").unlink()
    (run.folder / "label_free.csv").unlink()
    run = read_run(run.folder)
    assert state_of(run) == "ended before its end, after step 7 of 10; resume=auto goes on with it"


def test_a_run_that_goes_on_is_seen_and_left_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    lock = WriterLock(folder / ".lock")
    try:
        for _ in range(2):  # this process's own lock must not end by looking
            assert read_run(folder).is_open
        code = (
            "import sys; from pathlib import Path; from sfseg.storage.lock import is_held;"
            "print(is_held(Path(sys.argv[1])))"
        )
        seen = subprocess.run(
            [sys.executable, "-c", code, str(folder / ".lock")],
            capture_output=True, text=True, check=True, env=dict(os.environ),
        )  # fmt: skip
        assert seen.stdout == "True\n"
        assert state_of(read_run(folder)).startswith("going on, at step 10 of 10")
    finally:
        lock.release()
    assert not read_run(folder).is_open and not is_held(tmp_path / "none")


def test_no_run_is_refused_with_those_that_are_near(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        read_run(tmp_path / "none")
    with pytest.raises(DataError, match=r"neither run.json nor results.json.*logs/train/runs"):
        read_run(tmp_path)
    for k in range(5):
        write_run(tmp_path / f"r{k}")
    with pytest.raises(DataError, match=r"one of the 5 below it: .*r0, .*r1, .*r2, \.\.\."):
        read_run(tmp_path)


DAMAGES = {
    "results.json": ["{", "[]", '{"target": 3}', '{"target": {"IoU": {}, "summary": {}}}',
                     '{"target": {"IoU": {"a": 2}, "summary": {"mIoU": 0.5}}}', "[" * 100_000],
    "run.json": ["", "null", "\x00"],
    ".hydra/config.yaml": ["a: [", "- 1", "!!python/object/apply:os.system [true]"],
    ".hydra/overrides.yaml": ["{a: [}", "3"],
    "confusion.json": ['{"target": {"classes": ["a"], "counts": [[1, 2]]}}', '{"target": 1}',
                       '{"target": {"classes": ["a"], "counts": [[-1]]}}',
                       '{"target": {"classes": ["a"], "counts": [[1e400]]}}'],
    "cost.json": ["3", "nan"],
    "csv/metrics.csv": ["", "a,b\n1,2\n"],
    "label_free.csv": ['a\n"' + "x" * 200_000 + '"\n'],
    "panels/sheet.json": ["[]", "{"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in DAMAGES.items() for text in texts]
)
def test_a_damaged_file_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, text: str
) -> None:
    folder = write_run(tmp_path / "run")
    write(folder / name, text)
    run = read_run(folder)
    assert [note for note in run.damaged if note.startswith(f"{name}: ")]
    assert {note.split(":")[0] for note in run.damaged} == {name}
    assert run.panels and (name == "cost.json" or run.cost["minutes"] == 2)


def test_yaml_that_stands_for_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = ["a0: &a0 [x, x]"] + [f"a{k}: &a{k} [{f'*a{k - 1}, ' * 9}]" for k in range(1, 20)]
    write(folder / ".hydra" / "config.yaml", "\n".join(lines))
    assert "more than 100000 values" in read_run(folder).damaged[0]


def test_a_line_cut_off_while_it_was_written_is_left_out(tmp_path: Path) -> None:
    write_metrics(tmp_path, range(10))
    path = tmp_path / "csv" / "metrics.csv"
    whole = path.read_bytes()
    expected = read_columns(path)
    for cut in range(1, 12):
        path.write_bytes(whole + b"0,,10,0.123456,"[:cut])
        found = read_columns(path)
        assert found.values == expected.values and found.damaged == 0
    path.write_bytes(
        whole + b"0,,1\r\n\x00\xff,,,,\r\nx,,y,1,\r\n0,,11,inf,\r\n" + b"9" * 3_000_000
    )
    found = read_columns(path)
    assert found.damaged == 3 and found.values["train/loss"][-1] == float("inf")


def test_numbers_are_those_of_a_million_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,a\n" + "".join(f"{k},{k}\n" for k in range(100_000)))
    found = read_columns(path)
    assert found.last_step == 99_999 and sum(found.values["a"]) == 99_999 * 100_000 / 2
    with pytest.raises(ValueError, match="more than 1000 rows"):
        read_rows(path, most=1000)


def test_an_older_run_has_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    write(folder / "results.json", json.dumps({"target": {
        "summary": {"mIoU": 0.5}, "IoU": {"a": 0.5, "b": None}, "unheard_of": [1]}}))  # fmt: skip
    run = read_run(folder)
    assert run.damaged == [] and run.scores["target"].protocol == ""
    assert state_of(run) == "not known: there is no run.json"


def test_entries_of_another_version_leave_the_scores(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "results.json").read_text())
    write(folder / "results.json", json.dumps({"schema": 3, **content, "extra": {"a": [1]}}))
    run = read_run(folder)
    assert list(run.scores) == ["target"] and run.images == {"target": 200}
    assert run.damaged == [
        "results.json: schema holds no scores", "results.json: extra holds no scores"
    ]  # fmt: skip


def test_confusions_of_other_classes_are_not_those_of_the_scores(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "confusion.json").read_text())
    content["target"]["classes"] = ["car", "road", "sky"]
    write(folder / "confusion.json", json.dumps(content))
    run = read_run(folder)
    assert run.confusion == {} and "target has other classes than" in run.damaged[0]


def test_a_step_that_is_no_number_is_not_reached(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    write(folder / "label_free.csv", "step,combined\n5,0.5\ninf,0.6\n")
    run = read_run(folder)
    assert reached(run) == 10 and context(run, None)["label_free"]["charts"] == []
