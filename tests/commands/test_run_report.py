"""``sfseg-train`` writes a page on its run; ``sfseg-report`` and ``sfseg-compare`` write theirs."""

import json
from pathlib import Path

import pytest
from conftest import WITH_PANELS, Cli
from written_run import write_run

from sfseg.commands import run_report
from sfseg.config.bare_folders import as_list, as_setting
from sfseg.report.html import is_page

TRAIN = [word for word in WITH_PANELS if word != "report=false"]


def test_a_run_ends_with_its_page_and_its_matrix(cli: Cli) -> None:
    done = cli("sfseg-train", *TRAIN, "method=source_only", "data.scenes.target_eval.length=3")
    assert done.code == 0, done.output
    page = done.run / "report.html"
    assert is_page(page) and f"page on the run: {page}" in done.output
    text = page.read_text()
    assert "finished, 3 steps" in text and "mIoU in %, 3 images" in text
    assert "data.scenes.target_eval.length" in text.partition("Other than the defaults")[2]
    results = json.loads((done.run / "results.json").read_text())
    confusion = json.loads((done.run / "confusion.json").read_text())
    assert results["target"]["images"] == 3
    for domain, part in confusion.items():
        counts = part["counts"]
        for k, name in enumerate(part["classes"]):
            union = sum(counts[k]) + sum(row[k] for row in counts) - counts[k][k]
            iou = results[domain]["IoU"][name]
            assert iou == (None if not union else pytest.approx(counts[k][k] / union))


def test_a_page_that_fails_is_a_warning_and_no_page_is_a_choice(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, out: Path) -> int:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(run_report, "write_report", fail)
    done = cli("sfseg-train", *TRAIN, "~callbacks.panels", "hydra.run.dir=a")
    assert done.code == 0 and "no page on the run (ZeroDivisionError: by design)" in done.output
    assert json.loads(Path("a/run.json").read_text())["finished"]
    done = cli("sfseg-train", *TRAIN, "~callbacks.panels", "report=no", "hydra.run.dir=b")
    assert done.code == 2 and "report must be true or false, got no" in done.output


def test_report_of_a_folder(cli: Cli, tmp_path: Path) -> None:
    write_run(tmp_path / "2024_05")
    done = cli("sfseg-report", "run=2024_05")
    assert done.code == 0, done.output
    assert is_page(Path("2024_05/report.html"))
    assert cli("sfseg-report", "run=2024_05", "out=deep/a.html").code == 0
    assert cli("sfseg-report", "2024_05", "out=deep/b.html").code == 0
    assert is_page(Path("deep/a.html"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run=none"], 3, "run=none is no folder"),
        (["run=empty"], 3, "neither run.json nor results.json"),
        (["run=good", "out=good"], 2, "out=good is a folder"),
        (["run=good", "out=a.txt"], 2, "must end in .html"),
        (["run=good", "out=mine.html"], 2, "no page of sfseg"),
        ([], 2, "run"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    cli: Cli, words: list[str], code: int, message: str
) -> None:
    write_run(Path("good"))
    Path("empty").mkdir()
    Path("mine.html").write_text("mine")
    done = cli("sfseg-report", *words)
    assert done.code == code and message in done.output
    assert Path("mine.html").read_text() == "mine"


def test_compare_takes_folders_and_patterns(cli: Cli) -> None:
    for k in range(3):
        write_run(Path(f"runs/seed={k}"), seed=k)
    write_run(Path("runs/other"), config={"lr": 1})
    done = cli("sfseg-compare", "runs/seed=*", "runs/seed=0", "runs/other", "out=c.html")
    assert done.code == 0, done.output
    assert "c.html: 0.0 MB, of 4 runs" in done.output and "0, 1, 2" in done.output
    assert is_page(Path("c.html"))
    one = cli("sfseg-compare", "runs/other")
    assert one.code == 2 and "at least two folders, got 1" in one.output
    none = cli("sfseg-compare", "runs/other", "no*")
    assert none.code == 2 and "nothing is called or matches no*" in none.output


def test_folders_on_a_command_line_become_a_setting(tmp_path: Path) -> None:
    assert as_list(["a", "out=b.html", 'it"s, a', "--cfg"], "runs") == [
        "out=b.html", "--cfg", 'runs=["a","it\\"s, a"]',
    ]  # fmt: skip
    assert as_list(["runs=[a,b]", "hydra/output=x"], "runs") == ["runs=[a,b]", "hydra/output=x"]
    assert as_list([], "runs") == []
    assert as_setting(["a b, c", "out=d.html"], "run") == ["out=d.html", 'run="a b, c"']
    assert as_setting(["a", "b"], "run") == ["a", "b"]
    (tmp_path / "seed=1").mkdir()
    assert as_setting([f"{tmp_path}/seed=1"], "run") == [f'run="{tmp_path}/seed=1"']
