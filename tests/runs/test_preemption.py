"""What takes a run its machine or its disk: exit codes, the checkpoint, and how it goes on."""

import csv
import json
import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_kills import command, forget_source_models, require_equal, require_same_run, state
from zygote import Parent, Zygote


@pytest.fixture(scope="module")
def zygote(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Zygote:
    folder = tmp_path_factory.mktemp("preemption")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    scontrol = bin_folder / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    settings = {"SFSEG_CACHE": str(folder / "cache"), "PATH": path, "SLURM_JOB_ID": "4711"}
    return Zygote(parent, folder, WANDB_MODE="offline", **settings)


@pytest.fixture(scope="module")
def reference(zygote: Zygote) -> Path:
    return run(zygote, "reference", "train", "SIGKILL", 99, code=0)


def run(
    zygote: Zygote, folder: str, moment: str, what: str, step: int, *more: str, code: int
) -> Path:
    bomb = {"marker": folder + ".marker", "moment": moment, "what": what, "step": step}
    done, _ = zygote.train(
        *command("source_only"), "+callbacks.bomb._target_=bomb.Bomb",
        *(f"+callbacks.bomb.{key}={value}" for key, value in bomb.items()),
        f"hydra.run.dir={folder}", *more,
    )  # fmt: skip
    assert done == code, zygote.log.read_text()[-3000:]
    return zygote.log.parent / folder


def steps(run: Path) -> int:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return int(content["iteration"])


@pytest.mark.parametrize(
    ("what", "moment", "step", "saved"),
    [
        ("SIGTERM", "train", 1, 1),
        pytest.param("SIGTERM", "validation", 3, 3, marks=pytest.mark.slow),
        pytest.param("SIGTERM", "train", 0, 0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_ends_with_143(
    zygote: Zygote, reference: Path, what: str, moment: str, step: int, saved: int
) -> None:
    case = (f"{what}-{moment}-{step}", moment, what, step)
    folder = run(zygote, *case, code=143)
    assert steps(folder) == saved
    assert f"after step {saved}, which is saved in" in zygote.log.read_text()[-2000:]
    run(zygote, *case, "resume=auto", code=0)
    require_same_run(reference, folder)


def test_gradients_that_are_being_gathered_are_finished_first(zygote: Zygote) -> None:
    gather = ["trainer.accumulate_grad_batches=2", "trainer.max_steps=3"]
    whole = run(zygote, "gather-whole", "train", "SIGTERM", 99, *gather, code=0)
    case = ("gather-cut", "train", "SIGTERM", 3, *gather)
    assert steps(run(zygote, *case, code=143)) == 4
    require_same_run(whole, run(zygote, *case, "resume=auto", code=0))


def test_slurm_queues_the_job_again_after_its_warning_signal_only(zygote: Zygote) -> None:
    log = zygote.log.parent / "scontrol.log"
    log.unlink(missing_ok=True)
    assert steps(run(zygote, "warned", "train", "SIGUSR1", 4, code=143)) == 4
    assert log.read_text() == "requeue 4711\n"
    run(zygote, "ended", "train", "SIGTERM", 2, code=143)
    assert log.read_text() == "requeue 4711\n"


@pytest.mark.parametrize("step", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_while_a_checkpoint_is_put_together(
    zygote: Zygote, reference: Path, step: int
) -> None:
    case = (f"kill-save-{step}", "save", "SIGKILL", step)
    folder = run(zygote, *case, code=-signal.SIGKILL)
    assert (folder / "checkpoints" / "last.ckpt").exists() == (step == 4)
    run(zygote, *case, "resume=auto", code=0)
    require_same_run(reference, folder)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    zygote: Zygote, reference: Path
) -> None:
    case = ("disk", "train", "disk", 3)
    folder = run(zygote, *case, code=5)
    assert steps(folder) == 2
    assert [p.name for p in (folder / "checkpoints").iterdir() if "partial" in p.name] == []
    assert "cannot be written" in zygote.log.read_text()[-2000:]
    assert "Traceback" not in zygote.log.read_text()[-2000:]
    run(zygote, *case, "resume=auto", code=0)
    require_same_run(reference, folder)


def test_a_finished_run_is_left_alone(zygote: Zygote, reference: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.suffix != ".log"}
    run(zygote, "reference", "train", "SIGKILL", 99, "resume=auto", code=0)
    assert "is complete: nothing is left to do" in zygote.log.read_text()[-500:]
    assert before == {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.suffix != ".log"}
    record = json.loads((reference / "run.json").read_text())
    assert record["finished"]["metric"] > 0 and record["restarts"] == []
    run(zygote, "reference", "train", "SIGKILL", 99, "resume=auto", "seed=3", code=2)
    assert "seed: 0 there, 3 here" in zygote.log.read_text()[-500:]


def test_the_same_command_finds_its_run(zygote: Zygote) -> None:
    arguments = [
        *command("source_only"), "resume=auto", "+callbacks.bomb._target_=bomb.Bomb",
        "+callbacks.bomb.marker=found.marker", "+callbacks.bomb.moment=train",
        "+callbacks.bomb.step=3",
    ]  # fmt: skip
    code, _ = zygote.train(*arguments)
    (first,) = (zygote.log.parent / "logs" / "train" / "runs").glob("*/run.json")
    assert code == -signal.SIGKILL
    code, _ = zygote.train(*arguments)
    assert code == 0, zygote.log.read_text()[-3000:]
    (again,) = (zygote.log.parent / "logs" / "train" / "runs").glob("*/run.json")
    assert first == again
    assert len(json.loads(again.read_text())["restarts"]) == 1
    forget_source_models(zygote)


def test_other_settings_are_refused_and_named(zygote: Zygote) -> None:
    run(zygote, "half", "train", "SIGTERM", 2, code=143)
    run(zygote, "half", "train", "SIGTERM", 2, "resume=auto", "method.lr=0.5", code=2)
    message = zygote.log.read_text()[-1000:]
    assert "method.lr: ${backbone.lr} there, 0.5 here" in message


def test_settings_may_change_before_the_first_checkpoint(zygote: Zygote) -> None:
    case = ("begun", "train", "SIGKILL", 1)
    run(zygote, *case, code=-signal.SIGKILL)
    folder = run(zygote, *case, "resume=auto", "method.lr=0.5", code=0)
    assert "lr: 0.5" in (folder / ".hydra" / "config.yaml").read_text()


def test_one_process_works_in_a_run_folder(zygote: Zygote) -> None:
    run(zygote, "locked", "train", "SIGTERM", 2, code=143)
    with (zygote.log.parent / "locked" / ".lock").open("w") as lock:
        import fcntl

        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": os.getpid(), "host": "here"}))
        lock.flush()
        run(zygote, "locked", "train", "SIGTERM", 2, "resume=auto", code=2)
    assert f"is being written by process {os.getpid()}" in zygote.log.read_text()[-1500:]


@pytest.mark.slow
def test_two_runs_at_once_train_their_source_model_once(zygote: Zygote, tmp_path: Path) -> None:
    cache = zygote.log.parent / "cache"
    with Parent() as second, ThreadPoolExecutor(2) as pool:
        other = Zygote(second, tmp_path, SFSEG_CACHE=str(cache))
        assert other.train("--cfg", "job")[0] == 0, "it has started"
        arguments = command("uniuvpt", "trainer.max_steps=1", "source_model.steps=30")
        runs = [pool.submit(z.train, *arguments, "hydra.run.dir=shared") for z in (zygote, other)]
        assert [run.result()[0] for run in runs] == [0, 0], other.log.read_text()[-3000:]
        said = zygote.log.read_text() + other.log.read_text()
    assert "being written by process" in said and "trained by another process meanwhile" in said
    folders = (zygote.log.parent / "shared", tmp_path / "shared")
    require_equal(*(state(folder)["state_dict"] for folder in folders))


@pytest.mark.slow
def test_a_continued_run_stays_one_run_of_wandb(zygote: Zygote) -> None:
    case = ("dashboard", "train", "SIGTERM", 3, "logger=wandb")
    folder = run(zygote, *case, code=143)
    first = (folder / "wandb_id.txt").read_text()
    run(zygote, *case, "resume=auto", code=0)
    assert (folder / "wandb_id.txt").read_text() == first
    parts = [path.name.rsplit("-", 1)[1] for path in (folder / "wandb").glob("offline-run-*")]
    assert parts == [first.strip()] * 2
    rows = list(csv.DictReader((folder / "csv" / "metrics.csv").read_text().splitlines()))
    steps_of_losses = [int(row["step"]) for row in rows if row["train/loss"]]
    assert steps_of_losses == list(range(6))
