"""Killed at any moment and begun again with ``resume=auto``, a run ends as if nothing had been."""

import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import make
import numpy as np
import pytest
import torch
from conftest import WITH_PANELS
from zygote import Parent, Zygote, killed_until_done

from sfseg.config.composition import CONF
from sfseg.pseudo.reader import ROW

HERE = Path(__file__).parents[1]
RUN = [
    f"--config-dir={HERE / 'conf'}", *WITH_PANELS,
    "trust=[adversarial,bomb,colours,gradients,memory,own_labels]",
    "trainer.max_steps=6", "source_model.steps=3",
    "checkpoint.every_steps=2", "eval_every=3", "trainer.log_every_n_steps=1",
]  # fmt: skip
CORRECTING = [
    "callbacks.early_learning.every=0.5", "callbacks.early_learning.window=1.0",
    # Fires at once, so that a few steps correct something.
    "callbacks.early_learning.threshold=1e-6", "callbacks.label_correction.quantile=0.5",
    "callbacks.label_correction.open_for=2.0",
]  # fmt: skip
AVERAGING = [
    "+callbacks.ema._target_=sfseg.callbacks.ema.WeightAverage",
    "+callbacks.ema.decay=0.5",
]
SETTINGS = {
    "clouds": ["data.generated=generated", "method.teacher_every=2"],
    "datum": ["data.generated=generated"],
    "uniuvpt": [*CORRECTING, *AVERAGING, "select=label_free", "method.scales=[0.5,1.0]"]
}  # fmt: skip
SWITCHED = {
    "adaptsegnet_masked": ["method=adaptsegnet", "method.masked=1"],
    "advent_minent_masked": ["method=advent_minent", "method.masked=1"],
    "dacs_each": ["method=dacs", "method.masked=1", "method.propagate=each"],
}
"""Methods with parts that are off as shipped."""
HARDEST = ("source_only", "uniuvpt", "adversarial")
FULLEST = "uniuvpt"
METHODS = sorted(p.stem for p in (CONF / "method").glob("[!_]*.yaml"))
OWN = {"run.json", "train.log", "hparams.yaml", "cost.json"}
"""Files that tell one run from another."""
TIMED = (".hydra", "checkpoints", "tensorboard", "wandb")
"""Beginnings of the names of those that are compared in another way, or hold times."""


def in_two_suites(methods: list[str]) -> list[Any]:
    """The one of most parts in every run of the suite, the others in the slow one."""
    slow = pytest.mark.slow
    return [m if m == FULLEST else pytest.param(m, marks=slow) for m in methods]


@pytest.fixture(scope="module")
def zygote(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Zygote:
    folder = tmp_path_factory.mktemp("kills")
    make.generated(folder / "generated")
    return Zygote(parent, folder, SFSEG_CACHE=str(folder / "cache"), WANDB_MODE="offline")


def command(method: str, *settings: str) -> list[str]:
    panels = [] if method == FULLEST else ["~callbacks.panels"]
    chosen = SWITCHED.get(method, [f"method={method}"])
    return [*RUN, *chosen, *SETTINGS.get(method, ()), *panels, *settings]


def whole(zygote: Zygote, folder: str, arguments: list[str]) -> tuple[Path, float]:
    """A run that is not interrupted, and its seconds; source models are trained anew."""
    code, seconds = zygote.train(*arguments, f"hydra.run.dir={folder}")
    assert code == 0, zygote.log.read_text()[-3000:]
    forget_source_models(zygote)
    return zygote.log.parent / folder, seconds


def forget_source_models(zygote: Zygote) -> None:
    shutil.rmtree(zygote.log.parent / "cache", ignore_errors=True)


def require_equal(mine: Any, theirs: Any, name: str = "") -> None:
    """Nested containers of tensors, to the last bit."""
    if isinstance(mine, torch.Tensor):
        same = torch.equal(mine, theirs) or bool(torch.isnan(mine).any())
        if mine.is_floating_point():
            same = torch.equal(mine.nan_to_num(7.0), theirs.nan_to_num(7.0))
            same &= torch.equal(mine.isnan(), theirs.isnan())
        assert same, name
    elif isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), name
        for key in mine:
            require_equal(mine[key], theirs[key], f"{name}.{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), name
        for k, pair in enumerate(zip(mine, theirs, strict=True)):
            require_equal(*pair, f"{name}[{k}]")
    else:
        assert mine == theirs or (mine != mine and theirs != theirs), (name, mine, theirs)


def state(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    # Where the labels lie, and the evaluation of the source model, which is not repeated.
    content["AdaptationData"].get("pseudo_labels", {}).pop("folder", None)
    del content["loops"]["validate_loop"]
    content["sfseg"]["config"]["callbacks"].pop("bomb", None)
    return content


def selected(run: Path) -> dict[str, Any]:
    """Weights other than the last, where a run keeps some."""
    path = run / "checkpoints" / "selected.ckpt"
    if not path.exists():
        return {}
    content: dict[str, Any] = torch.load(path, weights_only=True)
    content["sfseg"]["config"]["callbacks"].pop("bomb", None)
    return content


def outputs(run: Path) -> dict[str, bytes]:
    """Tables, curves, pictures, logged numbers and pseudo-labels."""
    files = (p for p in run.rglob("*") if p.is_file() and p.name not in OWN)
    found = {
        name: path.read_bytes()
        for path in files
        if not (name := path.relative_to(run).as_posix()).startswith(TIMED)
    }
    if (rows := found.get("pseudo_labels/rows.u32")) is not None:
        # Beside each checksum stands how often its row has been written, or taken back.
        found["pseudo_labels/rows.u32"] = np.frombuffer(rows, ROW)["crc"].tobytes()
    return found


def halves(content: Any) -> bool:
    """Whether anything of a checkpoint is kept in half precision, where running means stall."""
    if isinstance(content, torch.Tensor):
        return content.is_floating_point() and content.element_size() < 4
    parts = content.values() if isinstance(content, dict) else content
    return isinstance(content, dict | list | tuple) and any(halves(part) for part in parts)


def curves(run: Path) -> dict[str, set[tuple[int, str]]]:
    """Numbers that TensorBoard shows; of a step that was repeated, the same twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: {(event.step, str(event.value)) for event in events.Scalars(tag)}  # NaN too
        for tag in events.Tags()["scalars"]
    }


def require_same_run(mine: Path, theirs: Path) -> None:
    require_equal(state(mine), state(theirs))
    require_equal(selected(mine), selected(theirs))
    here, there = outputs(mine), outputs(theirs)
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    assert not list(theirs.rglob("*.partial")) and not list(theirs.rglob("*.tmp"))


@pytest.mark.parametrize("method", in_two_suites(sorted({*METHODS, *SWITCHED, "adversarial"})))
def test_a_killed_run_ends_as_one_that_was_not(zygote: Zygote, method: str) -> None:
    arguments = command(method)
    shares = (0.85, 0.5) if method in HARDEST else (0.7,)
    reference, cut = whole_and_cut(zygote, method, arguments, shares)
    require_same_run(reference, cut)
    assert bool(selected(reference)) == ("select=label_free" in arguments)
    assert not halves(state(reference))


def whole_and_cut(
    zygote: Zygote, name: str, arguments: list[str], shares: Sequence[float]
) -> tuple[Path, Path]:
    """A run that is not interrupted, and one that is killed after shares of its time."""
    reference, seconds = whole(zygote, f"{name}-whole", arguments)
    cut = f"{name}-cut"
    for share in shares:
        code, _ = zygote.train(
            *arguments, f"hydra.run.dir={cut}", "resume=auto", kill_after=share * seconds
        )
        assert code in {0, -signal.SIGKILL}, zygote.log.read_text()[-3000:]
    code, _ = zygote.train(*arguments, f"hydra.run.dir={cut}", "resume=auto")
    assert code == 0, zygote.log.read_text()[-3000:]
    forget_source_models(zygote)
    return reference, reference.with_name(cut)


@pytest.mark.slow
@pytest.mark.parametrize("method", [FULLEST, "mean_teacher"])
def test_a_killed_run_with_every_logger_ends_as_one_that_was_not(
    zygote: Zygote, method: str
) -> None:
    more = [] if method in SETTINGS else [*AVERAGING, "select=label_free"]
    arguments = command(method, *more, "logger=[csv,tensorboard,wandb]")
    reference, cut = whole_and_cut(zygote, f"{method}-logged", arguments, (0.85, 0.5))
    require_same_run(reference, cut)
    shown = curves(reference)
    assert shown == curves(cut) and len(shown["train/loss"]) == 6
    assert (cut / "wandb_id.txt").read_text().strip() in str(list((cut / "wandb").iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", HARDEST)
def test_many_kills(zygote: Zygote, method: str, workers: int) -> None:
    arguments = command(method, f"data.num_workers={workers}")
    reference, seconds = whole(zygote, f"{method}-{workers}", arguments)
    moments, kills, rounds = random.Random(workers), 0, 0
    while kills < 9:
        cut = f"{method}-{workers}-{rounds}"
        kills += killed_until_done(
            zygote, [*arguments, f"hydra.run.dir={cut}"], moments=moments, longest=seconds
        )
        forget_source_models(zygote)
        require_same_run(reference, reference.with_name(cut))
        rounds += 1
    print(f"{method}, {workers} workers: {kills} kills in {rounds} runs, all equal")  # noqa: T201
