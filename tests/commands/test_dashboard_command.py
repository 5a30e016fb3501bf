"""``sfseg-dashboard``: a page on what runs have logged, and what W&B would be sent."""

import json
from pathlib import Path

import pytest
from conftest import Cli

from sfseg.report.html import is_page


def write_logged(folder: Path, *names: str) -> None:
    """A run that has logged these metrics to its CSV file."""
    (folder / "csv").mkdir(parents=True)
    lines = [",".join(["step", *names])]
    lines += [",".join(map(str, [step, *[0.1 * step] * len(names)])) for step in (0, 4, 9)]
    (folder / "csv" / "metrics.csv").write_text("\n".join([*lines, ""]))


def write_runs() -> None:
    write_logged(Path("runs/a"), "train/loss", "val/target/mIoU", "val/target/IoU/road")
    write_logged(Path("runs/b"), "train/loss", "mine/new")
    Path("runs/empty").mkdir()
    Path("mine.html").write_text("mine")
    Path("mine.json").write_text("{}")


def test_a_pattern_of_runs_becomes_a_page(cli: Cli) -> None:
    write_runs()
    done = cli("sfseg-dashboard", "run=runs/*", "json=view.json")
    assert done.code == 0, done.output
    assert "dashboard.html: 0.0 MB, of 2 runs" in done.output
    assert done.output.count("as there is no W&B file with numbers") == 2
    page = Path("dashboard.html").read_text()
    assert is_page(Path("dashboard.html")) and "Dashboard of 2 runs" in page
    for words in ("mIoU, target", "IoU, road", "train/loss", "mine/new"):
        assert words in page
    view = json.loads(Path("view.json").read_text())
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == ["Headline", "Target: classes", "Training", "Other"]
    assert view["project"] == "sfseg"
    again = cli("sfseg-dashboard", "run=[runs/a]", "json=view.json", "project=null")
    assert again.code == 0 and "<h1>a</h1>" in Path("dashboard.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run=none"], 2, "run=none is no folder of a run and no pattern"),
        (["run=no*"], 2, "run=no* is no folder of a run and no pattern"),
        (["run=runs/e*"], 2, "1 that match are no folders of runs"),
        (["run=[]"], 2, "run must be at least one folder"),
        (["run=runs/empty"], 3, "neither wandb/*/run-*.wandb nor csv/metrics.csv"),
        (["run=runs/a", "out=null"], 2, "nothing to do"),
        (["run=runs/a", "out=mine.html"], 2, "no page of sfseg"),
        (["run=runs/a", "json=mine.json"], 2, "json=mine.json is there and no dashboard"),
        (["run=runs/a", "json=runs"], 2, "json=runs is a folder"),
        (["run=runs/a", "view=https://w.example/a/b?nw=c"], 2, "set project= too"),
        (["run=runs/a", "entity=lab"], 2, "set project= too"),
        ([], 2, "run"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    cli: Cli, words: list[str], code: int, message: str
) -> None:
    write_runs()
    done = cli("sfseg-dashboard", *words)
    assert done.code == code and message in done.output, done.output
    assert Path("mine.html").read_text() == "mine" and Path("mine.json").read_text() == "{}"
    assert not Path("dashboard.html").exists()


def test_a_project_without_key_says_what_to_do(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs()
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", "none")
    done = cli("sfseg-dashboard", "run=runs/a", "project=seg")
    assert done.code == 2 and "there is no key for http://127.0.0.1:9" in done.output
    assert "json=<file> writes what would be sent" in done.output
    # What needs no network is there.
    assert is_page(Path("dashboard.html"))
