"""Two processes compute what one computes, for every method, and are killed and restarted."""

import json
import re
import shutil

import make
import pytest
import torch
from test_kills import (
    METHODS,
    SWITCHED,
    command,
    in_two_suites,
    require_equal,
    require_same_run,
    state,
)
from zygote import Parent, Zygote

TWO = ["trainer=ddp_cpu", "trainer.precision=32-true", "data.batch_size=1",
       "data.adaptation.batch_size=1", "data.eval_batch_size=1"]  # fmt: skip
PAIRS = {
    "clouds": ["data.adaptation.batch_size=2"],
    "sfda": ["data.adaptation.batch_size=2"],
}
"""Methods that compare the images of a process, or show images of two domains, need two there."""
COUNTED = {"clouds", "clouds_warmup"}
"""Methods whose losses are divided by what all processes have, see test_criterion.py."""
TRAINED: dict[str, list[str]] = {}
"""Settings that name the source models that this module has trained, by method."""


@pytest.fixture(scope="module")
def zygote(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Zygote:
    folder = tmp_path_factory.mktemp("ranks")
    make.generated(folder / "generated")
    return Zygote(parent, folder, SFSEG_CACHE=str(folder / "cache"), WANDB_MODE="offline")


def settings(method: str) -> list[str]:
    debug = ("trainer=", "trainer.precision=", "trainer.detect_anomaly=", "~callbacks.panels")
    return [setting for setting in command(method) if not setting.startswith(debug)]


def source_model(zygote: Zygote, method: str) -> list[str]:
    """Settings of a source model that one process has trained, whatever the batch of others."""
    if method not in TRAINED:
        code, said = zygote.call(
            "sfseg-train", *command(method, "trainer.max_steps=1", "data.batch_size=1"),
            "hydra.run.dir=prepared",
        )  # fmt: skip
        assert code == 0, said[-3000:]
        shutil.rmtree(zygote.folder / "prepared")
        found = re.findall(r"source model: (\S+), trained (?:now|before)", said)
        TRAINED[method] = [f"source_checkpoint={path}" for path in found[-1:]]
    return TRAINED[method]


@pytest.mark.parametrize("method", in_two_suites([*METHODS, *SWITCHED]))
def test_losses_and_gradients_are_those_of_one_process(zygote: Zygote, method: str) -> None:
    keep = [
        *source_model(zygote, method), "trainer.max_steps=1", "~callbacks.panels",
        "+callbacks.keep._target_=gradients.Gradients",
        f"+callbacks.keep.folder={method}", "select=last", "~callbacks.label_free_score",
        "trainer.limit_val_batches=1", *PAIRS.get(method, ()),
    ]  # fmt: skip
    code, _ = zygote.train(*settings(method), *TWO, *keep, f"hydra.run.dir={method}-two", ranks=2)
    assert code == 0, zygote.log.read_text()[-3000:]
    two = read(zygote, method)
    if method in COUNTED:
        assert two[0]["loss"] != two[1]["loss"], "both ranks saw the same data"
        require_equal(two[0]["gradients"], two[1]["gradients"])
        return
    for rank in range(2):
        code, _ = zygote.train(
            *settings(method), *TWO, "trainer=cpu", *keep, f"+callbacks.keep.acts={rank}",
            f"hydra.run.dir={method}-{rank}",
        )  # fmt: skip
        assert code == 0, zygote.log.read_text()[-3000:]
    one = read(zygote, method)
    losses = [[rank["loss"] for rank in ranks] for ranks in (one, two)]
    assert losses[0][0] != losses[0][1], "both ranks saw the same data"
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    names = one[0]["gradients"].keys()
    assert names and names == two[0]["gradients"].keys() == two[1]["gradients"].keys()
    for name in names:
        mean = (one[0]["gradients"][name] + one[1]["gradients"][name]) / 2
        largest = float(mean.abs().max()) or 1.0
        for rank in two:
            error = float((rank["gradients"][name] - mean).abs().max())
            assert error <= 1e-6 * max(1.0, largest), (name, error, largest)


def test_two_processes_count_every_image_of_several_sets_once(zygote: Zygote) -> None:
    own = ("data.scenes.target", "data.adaptation")
    arguments = [
        *(word for word in settings("source_only") if not word.startswith(own)), *TWO,
        "data=toyscapes_to_styles", "data.eval_length=5", "trainer.max_steps=1", "eval_every=1",
        "~callbacks.panels",
    ]  # fmt: skip
    code, _ = zygote.train(*arguments, "hydra.run.dir=sets-two", ranks=2)
    assert code == 0, zygote.log.read_text()[-3000:]
    last = zygote.log.parent / "sets-two" / "checkpoints" / "last.ckpt"
    code, said = zygote.call(
        "sfseg-eval", f"ckpt_path={last}", "trainer.precision=32-true", "hydra.run.dir=sets-one"
    )
    assert code == 0, said
    found = [
        json.loads((zygote.log.parent / run / "results.json").read_text())
        for run in ("sets-two", "sets-one")
    ]
    assert list(found[0]) == ["mean", *(f"style{k}" for k in range(1, 5)), "source"]
    assert found[0] == found[1]


def read(zygote: Zygote, method: str) -> list[dict]:
    folder = zygote.log.parent / method
    kept = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    shutil.rmtree(folder)
    return kept


def test_two_processes_measure_and_correct_what_one_does(zygote: Zygote) -> None:
    # Predictions that follow from the pixels alone: a network's depend on who shares its batch.
    arguments = [
        *settings("colours"), *TWO, *source_model(zygote, "uniuvpt"), "trainer.max_steps=16",
        "data.colour.probability=0",
        "callbacks.early_learning.every=0.5", "callbacks.early_learning.window=0.5",
        "callbacks.early_learning.threshold=1e-6", "callbacks.early_learning.curve=cubic",
        "callbacks.label_correction.quantile=0.3", "~callbacks.panels", "eval_every=99",
    ]  # fmt: skip
    for name, more, ranks in (
        ("one", ["trainer=cpu", "method.plan.batch_size=2"], 1),
        ("two", [], 2),
    ):
        code, _ = zygote.train(*arguments, *more, f"hydra.run.dir={name}", ranks=ranks)
        assert code == 0, zygote.log.read_text()[-3000:]
    runs = [zygote.log.parent / name for name in ("one", "two")]
    kept = [state(run)["callbacks"] for run in runs]
    for name in ("EarlyLearning", "LabelCorrection"):
        (mine,), (theirs,) = ([v for k, v in c.items() if k.startswith(name)] for c in kept)
        require_equal(mine, theirs, name)
    stores = [(run / "pseudo_labels" / "labels.u8").read_bytes() for run in runs]
    assert stores[0] == stores[1]
    assert sum(opening["changed"] for opening in mine["openings"]) > 0, "nothing was corrected"


def bomb(folder: str, what: str, step: int) -> list[str]:
    return [
        "+callbacks.bomb._target_=bomb.Bomb", f"+callbacks.bomb.marker={folder}.marker",
        "+callbacks.bomb.moment=train", f"+callbacks.bomb.what={what}",
        f"+callbacks.bomb.step={step}", "+callbacks.bomb.rank=1", f"hydra.run.dir={folder}",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("what", "ended"), [("SIGKILL", 6), ("SIGTERM", 143)])
def test_what_ends_one_of_two_processes_ends_both_and_changes_nothing(
    zygote: Zygote, what: str, ended: int
) -> None:
    # Of both runs, the first one trains their source model, by two processes.
    arguments = [*settings("uniuvpt"), *TWO]
    code, _ = zygote.train(*arguments, *bomb(f"{what}-whole", what, 99), ranks=2)
    assert code == 0, zygote.log.read_text()[-3000:]
    cut = bomb(f"{what}-cut", what, 3)
    code, seconds = zygote.train(*arguments, *cut, ranks=2)
    assert code == ended and seconds < 60
    if what == "SIGKILL":
        assert "process 0 of 2 waits in vain for another" in zygote.log.read_text()[-2000:]
    code, _ = zygote.train(*arguments, *cut, "resume=auto", ranks=2)
    assert code == 0, zygote.log.read_text()[-3000:]
    require_same_run(zygote.log.parent / f"{what}-whole", zygote.log.parent / f"{what}-cut")
