"""The source model of a source-free run: which one it takes, and what it never takes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import DEBUG, Cli, Done
from make import ids, own_folder, write

TENT = [*DEBUG, "method=tent", "trainer.max_steps=1", "source_model.steps=4"]
OWN = [
    "data=folder", "data.root=mine", "data.classes=cityscapes", "data.source_view.crop=[32,32]",
    "data.num_workers=0", "data.batch_size=2", "method=tent", "trainer=debug",
    "trainer.precision=32-true", "trainer.detect_anomaly=false", "trainer.max_steps=1",
    "source_model.steps=2",
    "~callbacks.panels",
]  # fmt: skip


def models(done: Done) -> list[Path]:
    return sorted((done.folder / "cache" / "source_models").rglob("last.ckpt"))


def steps(model: Path) -> int:
    return int(torch.load(model, weights_only=True)["global_step"])


def scores(done: Done, run: str) -> dict[str, float]:
    found = json.loads((done.folder / run / "results.json").read_text())
    return dict(found["target"]["summary"])


@pytest.mark.slow
@pytest.mark.parametrize("first", ["fast_dev_run=1", "max_epochs=1", "limit_train_batches=1"])
def test_a_trial_leaves_no_model_that_is_not_whole(cli: Cli, first: str) -> None:
    epochs = ["+trainer.limit_train_batches=1"] * (first == "max_epochs=1")
    trial = cli("sfseg-train", *TENT, f"+trainer.{first}", *epochs, "hydra.run.dir=trial")
    assert trial.code == 0, trial.output
    is_left = first != "fast_dev_run=1"
    assert [steps(model) for model in models(trial)] == [4] * is_left
    done = cli("sfseg-train", *TENT, "hydra.run.dir=whole")
    assert done.code == 0 and ("trained before" in done.output) == is_left
    assert [steps(model) for model in models(done)] == [4]


@pytest.mark.slow
def test_a_model_is_trained_on_all_batches_whatever_the_trial(cli: Cli) -> None:
    """Its weights beside a trial of one batch and of limited time, and without one."""
    weights = []
    trial = ["+trainer.limit_train_batches=1", "+trainer.max_time=00:00:00:01"]
    for number, settings in enumerate([[], trial]):
        done = cli("sfseg-train", *TENT, *settings, f"hydra.run.dir={number}")
        assert done.code == 0, done.output
        (model,) = models(done)
        weights.append(torch.load(model, weights_only=True)["state_dict"])
        shutil.rmtree(model.parents[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_evaluation_of_a_cached_model_follows_the_command_line(cli: Cli) -> None:
    done = cli("sfseg-train", *TENT, "hydra.run.dir=run")
    assert done.code == 0, done.output
    (model,) = models(done)
    found = []
    for shift in ("mild", "severe"):
        done = cli(
            "sfseg-eval", f"ckpt_path={model}", f"+data.shift={shift}", f"hydra.run.dir={shift}",
            "trainer.accelerator=cpu", "trainer.precision=32-true", "~callbacks.panels",
        )  # fmt: skip
        assert done.code == 0, done.output
        found.append(scores(done, shift))
    assert found[0] != found[1]
    idle = cli("sfseg-eval", f"ckpt_path={model}", "+data.steps=3", "hydra.run.dir=idle")
    assert idle.code == 2 and "data.steps=3 would change nothing" in idle.output


@pytest.mark.slow
def test_masks_folders_and_a_source_that_is_gone(cli: Cli, tmp_path: Path) -> None:
    for domain in ("source", "target"):
        own_folder(tmp_path / "mine" / domain, num_classes=19)
    done = cli("sfseg-train", *OWN, "hydra.run.dir=first")
    assert done.code == 0 and "none yet for these settings" in done.output, done.output
    (first,) = models(done)

    empty = cli("sfseg-eval", f"ckpt_path={first}", "+data.root=nowhere", "hydra.run.dir=eval")
    assert empty.code == 3 and "nowhere" in empty.output, empty.output

    write(tmp_path / "mine" / "source" / "masks" / "train" / "0.png", ids(7, 19))
    done = cli("sfseg-train", *OWN, "hydra.run.dir=second")
    assert done.code == 0 and "none yet for these settings" in done.output, done.output
    (second,) = set(models(done)) - {first}

    shutil.rmtree(tmp_path / "mine" / "source")
    done = cli("sfseg-train", *OWN, "hydra.run.dir=third")
    assert done.code == 0, done.output
    assert f"{second}, trained on what was there before" in done.output
    done = cli("sfseg-train", *OWN, "seed=1", "hydra.run.dir=fourth")
    assert done.code == 3 and "source_checkpoint=<file>" in done.output
    assert not (tmp_path / "fourth" / "run.json").exists()


def test_a_continued_run_keeps_its_source_model(cli: Cli) -> None:
    """Also where the settings would name another one by now."""
    done = cli("sfseg-train", *TENT, "hydra.run.dir=run")
    (model,) = models(done)
    moved = Path(shutil.move(model.parent, model.parents[1] / "under another name"))
    last = done.folder / "run" / "checkpoints" / "last.ckpt"
    done = cli(
        "sfseg-train", *TENT, "trainer.max_steps=2", f"ckpt_path={last}", "hydra.run.dir=more"
    )
    assert done.code == 0, done.output
    assert f"{moved / 'last.ckpt'}, which the run began with" in done.output
