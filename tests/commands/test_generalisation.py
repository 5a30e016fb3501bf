"""Runs that are judged on several sets: training, evaluation, sweeps, and what is refused."""

import csv
import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import make
import pytest
from conftest import DEBUG, Cli

STYLES = [f"style{k}" for k in range(1, 5)]
UNSEEN = [
    "data=toyscapes_to_styles", "data.eval_length=2",
    *(word for word in DEBUG if "target" not in word), "logger=[csv]",
]  # fmt: skip
DUSK = (
    "{_target_: sfseg.data.eval_sets.EvalSet, scenes: {_target_: sfseg.data.layouts.camvid, "
    "_partial_: true, root: camvid, split: test, sequences: ['0001TP']}}"
)

MINE = (
    "{_target_: sfseg.data.eval_sets.EvalSet, scenes: {_target_: sfseg.data.layouts.folder, "
    "_partial_: true, root: mine, split: val, classes: cityscapes}}"
)


def results(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "results.json").read_text())
    return document


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_run_is_judged_on_every_set_and_by_their_mean(cli: Cli, tmp_path: Path) -> None:
    done = cli("sfseg-train", *UNSEEN, "select=oracle", "eval_every=2", "hydra.run.dir=run")
    assert done.code == 0, done.output
    found = results(tmp_path / "run")
    assert list(found) == ["mean", *STYLES, "source"]
    for name, value in found["mean"]["summary"].items():
        assert value == pytest.approx(fmean(found[s]["summary"][name] for s in STYLES))
    assert "mean of (style1, style2, style3, style4)," in found["style3"]["protocol"]
    assert "selected with the evaluation sets' labels (oracle)" in found["mean"]["protocol"]
    for title in ("mean IoU", *(f"{style} IoU" for style in STYLES)):
        assert title in done.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["finished"]["metric"] == pytest.approx(found["mean"]["summary"]["mIoU"])
    rows = table(tmp_path / "run" / "csv" / "metrics.csv")
    of_mean = [float(row["val/mean/mIoU"]) for row in rows if row.get("val/mean/mIoU")]
    assert of_mean and not any(math.isnan(value) for value in of_mean)
    assert not any("target" in name for name in rows[0])

    last = f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'selected.ckpt'}"
    again = cli("sfseg-eval", last, "trainer.precision=32-true", "hydra.run.dir=again")
    assert again.code == 0, again.output
    scores = [
        {name: part["IoU"] for name, part in results(tmp_path / run).items()}
        for run in ("run", "again")
    ]
    assert scores[0] == scores[1]

    make.camvid(tmp_path / "camvid")
    other = cli("sfseg-eval", last, f"+data.eval_sets.dusk={DUSK}", "hydra.run.dir=other")
    assert other.code == 2 and not (tmp_path / "other" / "run.json").exists()
    assert "data.eval_sets.dusk has the 11 classes of camvid, the task 19 of cityscapes" in (
        other.output
    )


def test_a_checkpoint_of_a_usual_run_is_evaluated_on_unseen_sets(cli: Cli, tmp_path: Path) -> None:
    done = cli("sfseg-train", *DEBUG, "trainer.max_steps=1", "hydra.run.dir=run")
    assert done.code == 0, done.output
    assert list(results(tmp_path / "run")) == ["target", "source"]
    groups = [word for word in UNSEEN if word.startswith("data") and "adaptation" not in word]
    done = cli(
        "sfseg-eval", "ckpt_path=run/checkpoints/last.ckpt", *groups, "with_source=false",
        "~data.eval_sets.style3", "hydra.run.dir=eval", "trainer.precision=bf16-mixed",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "precision: bf16-mixed, in the run 32-true; trainer.precision=32-true" in done.output
    assert list(results(tmp_path / "eval")) == ["mean", "style1", "style2", "style4"]
    make.own_folder(tmp_path / "mine", num_classes=19, count=1)
    done = cli(
        "sfseg-eval", "ckpt_path=run/checkpoints/last.ckpt", f"+data.eval_sets.mine={MINE}",
        "with_source=false", "hydra.run.dir=mine/run",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert list(results(tmp_path / "mine" / "run")) == ["mean", "mine"]


def test_generated_images_are_all_that_a_method_sees_of_a_target(cli: Cli, tmp_path: Path) -> None:
    make.generated(tmp_path / "made", 3)
    done = cli(
        "sfseg-train", "-m", *UNSEEN, "method=dacs", "data.generated=made", "seed=0,1",
        "source_model.steps=1", "trainer.max_steps=1", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "3 generated images of data.generated=made" in done.output
    found = results(tmp_path / "sweep" / "0")
    assert list(found) == ["mean", *STYLES, "source"] and "source_only" in found["style2"]
    (row,) = table(tmp_path / "sweep" / "summary.csv")
    assert row["runs"] == "2" and {f"{name} mIoU" for name in ("mean", *STYLES)} < set(row)
    before, after = row["source-only mIoU"], row["mean mIoU"]
    gain = float(after.split()[0]) - float(before.split()[0])
    assert float(row["gain mIoU"].split()[0]) == pytest.approx(gain, abs=0.011)


EVAL_SET = "_target_: sfseg.data.eval_sets.EvalSet"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["method=uniuvpt"], 2, "set data.generated=<folder of generated images>, or choose data"),
        (["method=dacs"], 2, "set data.generated=<folder of generated images>, or choose data"),
        (["method=datum"], 2, "sfseg-generate images make some, and set data.generated"),
        (["method=oracle"], 2, "got null; choose data with training images of a target, such as"),
        (
            ["method=dacs", "data.generated=made", "start=backbone", "data.n_shots=1"],
            2, "of which these data have none",
        ),
        (["data.eval_sets=null"], 2, "is not logged; choose one of"),
        (["optimized_metric=val/target/mIoU"], 2, "val/mean/mIoU"),
        ([f"+data.eval_sets.mean={{{EVAL_SET}, scenes: null}}"], 2, "got 'mean'; rename it"),
        ([f"+data.eval_sets.x={{{EVAL_SET}, scenes: null}}"], 2, "x.scenes must be what opens"),
        (["+data.eval_sets.x={scenes: 3}"], 2, "data.eval_sets.x must be a set, _target_"),
        (["data.eval_sets.style2.scenes.style_seed=-1"], 2, "data.eval_sets.style2.scenes: style"),
        ([f"+data.eval_sets.dusk={DUSK}"], 3, "data.eval_sets.dusk: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_is_refused_before_training(
    cli: Cli, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    make.generated(tmp_path / "made", 2)
    done = cli("sfseg-train", *UNSEEN, *words)
    assert done.code == code and message in done.output, done.output
    assert "training:" not in done.output and not list(tmp_path.rglob("run.json"))


def test_no_sets_are_no_sets(cli: Cli) -> None:
    done = cli("sfseg-train", *[w for w in DEBUG if "target" not in w], "data.eval_sets={}")
    assert done.code == 2 and "data.eval_sets must be sets by their names" in done.output


def test_the_data_command_reads_the_sets(cli: Cli, tmp_path: Path) -> None:
    groups = [word for word in UNSEEN if word.startswith("data")]
    done = cli("sfseg-data", "check", *groups, "samples=1", "hydra.run.dir=check")
    assert done.code == 0, done.output
    found = json.loads((tmp_path / "check" / "check.json").read_text())["sets"]
    assert list(found) == ["source_train", "source_eval", *(f"{s}_eval" for s in STYLES)]
    assert (tmp_path / "check" / "check.png").is_file()


@pytest.mark.parametrize("setting", ["data.generated", "data.target_folders"])
def test_the_data_command_reads_what_stands_for_a_target(
    cli: Cli, tmp_path: Path, setting: str
) -> None:
    groups = [word for word in UNSEEN if word.startswith("data")]
    make.generated(tmp_path / "made", 3)
    words = [*groups, f"{setting}=made"]
    done = cli("sfseg-data", "check", *words, "samples=1", "hydra.run.dir=check")
    assert done.code == 0 and "target train" in done.output, done.output
    found = json.loads((tmp_path / "check" / "check.json").read_text())["sets"]
    assert found["target_train"]["scenes"] == 3
    done = cli("sfseg-data", "preview", *words, "images=1", "hydra.run.dir=preview")
    assert done.code == 0, done.output
    missing = [*groups, f"{setting}=nowhere", "samples=1", "hydra.run.dir=missing"]
    done = cli("sfseg-data", "check", *missing)
    assert done.code == 3 and f"{setting} names nowhere, which does not exist" in done.output
