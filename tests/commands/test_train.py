import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from conftest import DEBUG, WITH_PANELS, Cli, command

from sfseg.storage.manifest import KEY


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seed 0, which many others are compared with and which is made once."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert command("sfseg-train", *DEBUG, f"hydra.run.dir={run}") == 0
    return run


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with torch's deterministic algorithms, and with pictures."""
    run = tmp_path_factory.mktemp("deterministic") / "run"
    torch.use_deterministic_algorithms(True)
    try:
        assert command("sfseg-train", *WITH_PANELS, f"hydra.run.dir={run}") == 0
    finally:
        torch.use_deterministic_algorithms(False)
    return run


def test_a_run_leaves_everything_behind(cli: Cli) -> None:
    done = cli("sfseg-train", *WITH_PANELS, "seed=0", "tags=[first]")
    assert done.code == 0, done.output
    assert "mIoU13" in done.output and "panels/step_000003.png" in done.output
    run = done.run
    results = json.loads((run / "results.json").read_text())
    assert set(results) == {"target", "source"}
    assert set(results["target"]["summary"]) >= {"mIoU", "mIoU16", "mIoU13", "pixel_accuracy"}
    assert len((run / "results.csv").read_text().splitlines()) == 1 + 19 + 5
    assert (run / "results.md").read_text().startswith("| class | target IoU | source IoU |")
    picture = cv2.imread(str(run / "panels" / "step_000003.png"))
    assert picture is not None and picture.std() > 10
    record = json.loads((run / "run.json").read_text())
    assert record["seed"] == 0 and record["tags"] == ["first"] and "torch" in record["versions"]
    assert "tags=[first]" in yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    resolved = yaml.safe_load((run / ".hydra" / "resolved.yaml").read_text())
    assert resolved["trainer"]["max_steps"] == 3
    rows = list(csv.DictReader((run / "csv" / "metrics.csv").read_text().splitlines()))
    assert any(row.get("train/loss") for row in rows)
    assert any(row.get("val/target/IoU/train") for row in rows)


def test_what_a_method_refuses_is_no_traceback(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "method.aux_weight=0.1")
    assert done.code == 2 and "Traceback" not in done.output
    assert "method: aux_weight must be positive where the network has" in done.output


def test_settings_left_over_from_another_optimiser_are_named(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "+method.optimizer.nesterov=true")
    assert done.code == 2 and "Traceback" not in done.output
    assert "method.optimizer is refused" in done.output and "nesterov" in done.output


def test_checkpoint_holds_tensors_and_plain_containers_only(plain: Path) -> None:
    checkpoint = torch.load(plain / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["iteration"] == 3
    assert checkpoint[KEY]["labels"]["name"] == "cityscapes"
    assert checkpoint[KEY]["config"]["trainer"]["max_steps"] == 3


def test_seed_zero_is_a_seed_and_seeds_differ(cli: Cli, plain: Path) -> None:
    runs = {"a": weights(plain)}
    for name, seed in (("b", 0), ("c", 1)):
        done = cli("sfseg-train", *DEBUG, f"seed={seed}", f"hydra.run.dir={name}")
        assert done.code == 0, done.output
        runs[name] = weights(done.folder / name)
    assert equal(runs["a"], runs["b"])
    assert not equal(runs["a"], runs["c"])


def test_no_seed_draws_one_and_records_it(cli: Cli) -> None:
    seeds = []
    for name in ("a", "b"):
        done = cli("sfseg-train", *DEBUG, "seed=null", f"hydra.run.dir={name}")
        assert done.code == 0, done.output
        seeds.append(json.loads((done.folder / name / "run.json").read_text())["seed"])
    assert seeds[0] != seeds[1] and all(isinstance(seed, int) for seed in seeds)


@pytest.mark.parametrize(
    "change",
    [
        ["data.num_workers=0"],
        ["eval_every=1", "checkpoint.every_steps=1", "logger=wandb", "trainer.log_every_n_steps=2"],
        ["backbone.gradient_checkpointing=true"],
        *(
            pytest.param(change, marks=pytest.mark.slow)
            for change in (
                ["eval_every=1", "trainer.limit_val_batches=1"],
                ["checkpoint.every_steps=1", "checkpoint.every_minutes=0.001"],
                ["~callbacks.progress", "logger=none"],
                ["callbacks.finite.on_nonfinite=skip"],
            )
        ),
    ],
    ids=lambda change: change[-1],
)
def test_what_must_not_change_training(cli: Cli, deterministic: Path, change: list[str]) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        done = cli("sfseg-train", *DEBUG, *change, "hydra.run.dir=changed")
    finally:
        torch.use_deterministic_algorithms(False)
    assert done.code == 0, done.output
    assert equal(weights(deterministic), weights(done.folder / "changed"))


@pytest.mark.slow
def test_scores_without_labels_and_selection_change_no_training(cli: Cli) -> None:
    adapt = [*DEBUG, "method=tent", "source_model.steps=2"]
    cli("sfseg-train", *adapt, "~callbacks.label_free_score", "hydra.run.dir=plain")
    done = cli("sfseg-train", *adapt, "select=oracle", "eval_every=1", "hydra.run.dir=scored")
    assert done.code == 0, done.output
    assert equal(weights(done.folder / "plain"), weights(done.folder / "scored"))
    run = done.folder / "scored"
    scored = list(csv.DictReader((run / "label_free.csv").read_text().splitlines()))
    assert [row["step"] for row in scored] == ["0", "1", "2", "3"]
    best = max(scored, key=lambda row: float(row["target_mIoU"]))
    note = f"checkpoint selected with the target's labels (oracle), step {best['step']}"
    assert (run / "results.md").read_text().endswith(f"\n\n{note}\n")
    target = json.loads((run / "results.json").read_text())["target"]
    assert target["selection"] == {"mode": "oracle", "step": int(best["step"])}
    assert target["protocol"].endswith(note)
    assert float(best["target_mIoU"]) == pytest.approx(target["summary"]["mIoU"], rel=1e-5)
    assert json.loads((run / "cost.json").read_text())["steps"] == 3
    again = cli(
        "sfseg-eval", f"ckpt_path={run}/checkpoints/selected.ckpt", "hydra.run.dir=again",
        "trainer=cpu", "trainer.precision=32-true", "trainer.limit_val_batches=2",
    )  # fmt: skip
    assert again.code == 0, again.output
    found = json.loads((done.folder / "again" / "results.json").read_text())["target"]
    assert found["summary"] == target["summary"] and found["protocol"].endswith(note)
    more = cli("sfseg-train", *adapt, f"ckpt_path={run}/checkpoints/selected.ckpt")
    assert more.code == 2 and "holds weights alone, for sfseg-eval" in more.output


def test_selection_without_labels_needs_a_method_that_adapts(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "select=label_free")
    assert done.code == 2 and "Traceback" not in done.output
    assert "select=label_free needs a method that trains on images of the target" in done.output
    assert not list(done.folder.rglob("run.json"))


def test_resumed_run_equals_an_uninterrupted_one(cli: Cli) -> None:
    steps = ["trainer.max_steps=4", "method.schedule.steps=4"]
    cli("sfseg-train", *DEBUG, *steps, "hydra.run.dir=whole")
    cli("sfseg-train", *DEBUG, *steps, "trainer.max_steps=2", "hydra.run.dir=half")
    done = cli(
        "sfseg-train", *DEBUG, *steps, "ckpt_path=half/checkpoints/last.ckpt", "hydra.run.dir=rest"
    )
    assert done.code == 0, done.output
    assert equal(weights(done.folder / "whole"), weights(done.folder / "rest"))


def test_averaged_weights_are_evaluated_and_saved(cli: Cli, plain: Path) -> None:
    done = cli(
        "sfseg-train", *DEBUG, "callbacks=[default,ema]", "callbacks.ema.decay=0.5",
        "hydra.run.dir=ema",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert not equal(weights(plain), weights(done.folder / "ema"))
    results = [(run / "results.json").read_text() for run in (plain, done.folder / "ema")]
    assert results[0] != results[1]


def test_oracle_trains_on_target_labels_and_evaluates_the_target_only(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "method=oracle")
    assert done.code == 0, done.output
    assert set(json.loads((done.run / "results.json").read_text())) == {"target"}


def test_multirun_ends_with_one_table(cli: Cli) -> None:
    short = ["trainer.max_steps=1", "trainer.limit_val_batches=1"]
    done = cli("sfseg-train", "-m", *DEBUG, *short, "seed=0,1", "data.shift=mild,severe")
    assert done.code == 0, done.output
    (table,) = done.folder.rglob("summary.md")
    rows = table.read_text().splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| data.shift=mild", "2"],
        ["| data.shift=severe", "2"],
    ]
    assert all("+-" in row for row in rows)
    assert len(list(done.folder.rglob("results.json"))) == 4


def test_wandb_offline_writes_one_run_a_job(cli: Cli) -> None:
    done = cli("sfseg-train", "-m", *DEBUG, "logger=wandb", "seed=0,1", "tags=[w]")
    assert done.code == 0, done.output
    assert len(list(done.folder.rglob("*.wandb"))) == 2
    assert len(list(done.folder.rglob("metrics.csv"))) == 2


def test_tensorboard_takes_the_panels(cli: Cli) -> None:
    done = cli("sfseg-train", *WITH_PANELS, "logger=tensorboard")
    assert done.code == 0, done.output
    events = done.folder.rglob("events.out.tfevents.*")
    assert any(b"panels" in path.read_bytes() for path in events)


def test_optimized_metric_must_exist(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "optimized_metric=val/miou")
    assert done.code == 2
    assert "val/miou" in done.output and "val/target/mIoU" in done.output


@pytest.mark.parametrize("switch", ["trainer.precision=bf16-mixed", "backbone.channels_last=true"])
def test_switches_train(cli: Cli, switch: str) -> None:
    done = cli("sfseg-train", *DEBUG, switch)
    assert done.code == 0, done.output


def test_any_timm_model_trains_at_an_odd_size(cli: Cli) -> None:
    done = cli(
        "sfseg-train", *DEBUG, "backbone=resnet50", "backbone.pretrained=false",
        "backbone.network.name=resnet10t", "data.source_view.crop=[65,97]",
    )  # fmt: skip
    assert done.code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["backbone.compile=true"],
        ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1"],
        ["-m", "hydra/launcher=submitit_local", "seed=0,1"],
    ],
    ids=["compile", "joblib", "submitit"],
)
def test_slow_switches(tmp_path: Path, arguments: list[str]) -> None:
    """In a process of their own: compilers and launchers leave threads and caches behind."""
    done = subprocess.run(
        [sys.executable, "-m", "sfseg.commands.train", *arguments, *DEBUG],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("results.json"))) == (2 if "-m" in arguments else 1)
    assert len(list(tmp_path.rglob("summary.md"))) == ("-m" in arguments)


@pytest.mark.slow
def test_swin_b_trains(cli: Cli) -> None:
    small = [setting for setting in DEBUG if not setting.startswith("data.size")]
    done = cli("sfseg-train", *small, "backbone=swin_b", "backbone.pretrained=false")
    assert done.code == 0 and "90,686,667" in done.output, done.output


def test_the_first_line_comes_before_anything_is_loaded(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "method._target_=os.system")
    assert done.code == 2
    said, refused = (
        done.output.find("source_only, tiny, toyscapes: loading"),
        done.output.find("os."),
    )
    assert 0 <= said < refused
