import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import handwritten
import pytest
import results
from conftest import SMALL, command
from results import call, main
from results_record import read_record_of

TABLES = {
    "one": {
        "overrides": [
            *SMALL, "trainer.precision=32-true", "~callbacks.panels", "eval_every=1",
            "source_model.steps=1", "data.adaptation.steps=2",
        ],
        "rows": {
            "tent": {"set": ["method=tent"]},
            "photos": {"set": ["data.root=${oc.env:SFSEG_ABSENT}"]},
        },
    }
}  # fmt: skip


class Bench:
    """Docs and runs in a folder, and what the runs were asked for."""

    def __init__(self, folder: Path) -> None:
        page = "<!-- generated: table one -->\n<!-- end -->\n"
        self.docs = handwritten.docs_of(folder / "docs", TABLES, page)
        self.work = folder / "work"
        self.commands: list[list[str]] = []

    def __call__(self, task: str, *words: str) -> int:
        return main(["--docs", str(self.docs), "--work", str(self.work), task, *words])

    def record(self, row: str = "tent") -> dict[str, Any]:
        return read_record_of(self.docs / "results" / f"{row}.json")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("SFSEG_CACHE", str(tmp_path / "cache"))
    return Bench(tmp_path)


def in_this_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs start without a new process."""

    def run(words: list[str], log: Path) -> int:
        bench.commands.append(words)
        log.touch()
        return command("sfseg-train", *words[3:])

    monkeypatch.setattr(results, "call", run)


def ends(bench: Bench, monkeypatch: pytest.MonkeyPatch, *codes: int) -> None:
    """Runs end with these exit codes; finished ones have found the same each time."""
    left = iter(codes)

    def run(words: list[str], log: Path) -> int:
        bench.commands.append(words)
        log.write_text(f"sfseg: the disk at {log} is full\n")
        return next(left)

    monkeypatch.setattr(results, "call", run)
    monkeypatch.setattr(
        results, "outcome", lambda folder, begun: handwritten.finished(0.5, **begun)
    )


def test_a_row_is_measured_once_and_repeats_to_the_bit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(bench, monkeypatch)
    assert bench("measure", "tent", "--seeds", "0") == 0
    seed = bench.record()["seeds"]["0"]
    assert (seed["status"], seed["steps"], seed["checkpoint"]) == ("finished", 2, "last")
    assert seed["cost"]["steps"] == 2 and seed["machine"]["device"] == "cpu"
    assert seed["curve"]["step"] == [0, 1, 2]
    for scores in seed["scores"]["target"].values():
        known = [value for value in scores["IoU"].values() if value is not None]
        assert scores["summary"]["mIoU"] == pytest.approx(sum(known) / len(known))
    text = (bench.docs / "results" / "tent.json").read_text()
    assert str(bench.docs.parent) not in text and str(Path.home()) + "/" not in text

    assert bench("measure", "tent", "--seeds", "0") == 0
    assert len(bench.commands) == 1
    assert "finished 1 of 1 seeds; nothing is left to do" in capsys.readouterr().out

    assert bench("measure", "tent", "--repeat") == 0
    assert "tent, seed 0: equal" in capsys.readouterr().out and len(bench.commands) == 2
    assert (bench.docs / "results" / "tent.json").read_text() == text

    record = bench.record()
    record["seeds"]["0"]["scores"]["target"]["adapted"]["summary"]["mIoU"] += 1e-9
    results.write_record(bench.docs / "results" / "tent.json", record)
    monkeypatch.setattr(results, "run", lambda *_: seed)
    assert bench("measure", "tent", "--repeat") == 1
    assert "tent, seed 0: different: scores; " in capsys.readouterr().out
    assert bench("tables") == 0
    assert "| [tent](results/tent.json) | 1 of 2 |" in (bench.docs / "results.md").read_text()


def test_missing_seeds_are_run_and_others_are_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(bench, monkeypatch, 0, 0)
    assert bench("measure", "tent", "--seeds", "1") == 0
    assert bench("measure", "tent") == 0
    assert [words[-3] for words in bench.commands] == ["seed=1", "seed=0"]
    assert all(words[-1] == "resume=auto" for words in bench.commands)
    assert list(bench.record()["seeds"]) == ["0", "1"]
    assert bench("list") == 0
    shown = capsys.readouterr().out
    assert "tent    finished 2 of 2 seeds\n" in shown and "photos  not measured\n" in shown


def test_a_failure_stays_until_it_is_forced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(bench, monkeypatch, 5, 0, 0, 0)
    assert bench("measure", "tent") == 1
    seed = bench.record()["seeds"]["0"]
    assert (seed["status"], seed["reason"]) == ("failed", "exit code 5: the disk at <path> is full")
    assert bench("measure", "tent") == 1, "it says so again"
    assert len(bench.commands) == 2 and "seed 0 failed: exit code 5" in capsys.readouterr().out
    assert bench("measure", "tent", "--force") == 0
    assert len(bench.commands) == 4 and bench.record()["seeds"]["0"]["status"] == "finished"


def test_a_run_that_was_stopped_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ends(bench, monkeypatch, 143, 0, 0)
    assert bench("measure", "tent") == 143
    assert bench.record()["seeds"]["0"]["status"] == "cancelled" and len(bench.commands) == 1
    kept = bench.work / "tent" / "seed0" / "kept"
    kept.parent.mkdir()
    kept.touch()
    assert bench("measure", "tent") == 0
    assert kept.exists() and list(bench.record()["seeds"]) == ["0", "1"]


def test_what_another_commit_began_is_begun_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(bench, monkeypatch, 143, 0, 0)
    bench("measure", "tent")
    kept = bench.work / "tent" / "seed0" / "kept"
    kept.parent.mkdir()
    kept.touch()
    note = bench.work / "tent" / "seed0.json"
    said = json.loads(note.read_text())
    said["begun"]["sfseg"]["commit"] = "d" * 40
    note.write_text(json.dumps(said))
    assert bench("measure", "tent") == 0
    assert not kept.exists()


def test_a_finished_run_of_another_commit_keeps_its_commit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(bench, monkeypatch, 143, 0, 0)
    bench("measure", "tent")
    note = bench.work / "tent" / "seed0.json"
    said = json.loads(note.read_text())
    said["begun"]["sfseg"]["commit"] = "d" * 40
    note.write_text(json.dumps(said))
    (bench.work / "tent" / "seed0").mkdir()
    (bench.work / "tent" / "seed0" / "run.json").write_text('{"finished": {"metric": 0.5}}')
    assert bench("measure", "tent") == 0
    commits = [seed["sfseg"]["commit"] for seed in bench.record()["seeds"].values()]
    assert commits[0] == "d" * 40 != commits[1]


def test_other_settings_are_measured_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(bench, monkeypatch, 0, 0, 0, 0)
    bench("measure", "tent")
    path = bench.docs / "results" / "rows.yaml"
    path.write_text(path.read_text().replace("eval_every=1", "eval_every=2"))
    assert bench("list") == 0 and "of other settings than now" in capsys.readouterr().out
    assert bench("measure", "tent") == 0
    assert "its settings have changed" in capsys.readouterr().out and len(bench.commands) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tenty"], "no rows ['tenty']; `make results` lists"),
        (["photos"], "photos needs SFSEG_ABSENT=<folder of the data> in the environment"),
        (["tent", "--repeat"], "tent has no finished seed of these settings; measure it first"),
        (["tent", "--seeds", "0", "--force"], "--force measures every seed anew; leave --seeds"),
        (["tent", "--seeds", "7"], "no row has seeds [7]; they have [0, 1]"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    ends(bench, monkeypatch)
    assert bench("measure", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(bench.docs.glob("results/*.json"))


def test_a_damaged_record_is_replaced_only_by_force(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(bench, monkeypatch, 0, 0)
    path = bench.docs / "results" / "tent.json"
    path.write_text("{}")
    assert bench("measure", "tent") == 2
    assert path.read_text() == "{}" and "FORCE=1" in capsys.readouterr().err
    assert bench("list") == 0 and "has schema None" in capsys.readouterr().out
    assert bench("measure", "tent", "--force") == 0
    assert len(bench.record()["seeds"]) == 2


def test_a_run_that_is_still_going_on_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(bench, monkeypatch)
    target = bench.work / "tent" / "seed0"
    target.mkdir(parents=True)
    lock = results.WriterLock(target / ".lock")
    try:
        assert bench("measure", "tent", "--force") == 2
    finally:
        lock.release()
    assert "is open for writing" in capsys.readouterr().err and target.is_dir()
    assert not list(bench.docs.glob("results/*.json"))


def test_two_do_not_measure_a_row_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(bench, monkeypatch)
    (bench.work / "tent").mkdir(parents=True)
    lock = results.WriterLock(bench.work / "tent" / ".lock")
    try:
        assert bench("measure", "tent") == 2
    finally:
        lock.release()
    assert "is open for writing" in capsys.readouterr().err


def test_a_run_has_a_log_and_an_exit_code(tmp_path: Path) -> None:
    program = "import os, sys; print(os.environ['OMP_NUM_THREADS']); sys.exit('bad')"
    assert call([sys.executable, "-c", program], tmp_path / "log") == 1
    assert (tmp_path / "log").read_text().split() == ["1", "bad"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_first(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)"
    )

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=stop)
    thread.start()
    assert call([sys.executable, "-c", program], tmp_path / "log") == 143
    thread.join()
    assert signal.getsignal(number) is before
