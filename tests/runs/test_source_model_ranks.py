"""A source model that several processes train, and labels that they make with it."""

from pathlib import Path

import pytest
import torch
from conftest import SMALL
from test_kills import require_equal, state
from zygote import Parent, Zygote

RUN = [
    *SMALL, "~callbacks.panels", "trainer.precision=32-true", "trainer.max_steps=2",
    "source_model.steps=4", "checkpoint.every_steps=2", "data.eval_batch_size=1",
    # Adam makes steps of rounding errors, where gradients are as small.
    "+source_model.method.optimizer.eps=1e-3",
    # Nothing of an image depends on the others of its batch.
    "backbone/head=deeplabv2", "data.source_view.ratio=[1,1]",
    "data.adaptation.target_view.ratio=[1,1]", "data.scenes.target_train.length=5",
]  # fmt: skip
TENT = [*RUN, "method=tent", "data.adaptation.batch_size=1"]
TWO = ["trainer=ddp_cpu", "data.batch_size=1"]
KILLED = """
import os, signal, sys, zygote
from sfseg.methods.source_only import SourceOnly
step = SourceOnly.training_step
def killed(self, batch, batch_idx):
    if self.iteration == 4 and self.global_rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)
SourceOnly.training_step = killed
zygote.main_of(sys.argv[0])()
"""
"""A command whose second process is killed in the fourth step of the source model."""


@pytest.fixture(scope="module")
def zygote(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Zygote:
    folder = tmp_path_factory.mktemp("together")
    return Zygote(parent, folder, SFSEG_CACHE=str(folder / "cache"))


def train(zygote: Zygote, folder: str, *settings: str, ranks: int = 1) -> str:
    code, said = zygote.call("sfseg-train", *settings, f"hydra.run.dir={folder}", ranks=ranks)
    assert code == 0, said[-3000:]
    return said


def model(folder: Path) -> Path:
    (found,) = folder.glob("*/last.ckpt")
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True)["state_dict"])


def test_two_processes_train_the_source_model_that_one_does(zygote: Zygote) -> None:
    place = zygote.folder
    two, one = (f"source_model.folder={name}" for name in ("by-two", "by-one"))
    said = train(zygote, "two", *TENT, *TWO, two, ranks=2)
    assert said.count("none yet for these settings") == said.count(", trained now") == 1
    # With as many images a step; it is known by the same name, so either would do.
    said = train(zygote, "one", *TENT, "trainer=cpu", "data.batch_size=2", one)
    mine, theirs = (model(place / name) for name in ("by-two", "by-one"))
    assert mine.parent.name == theirs.parent.name
    torch.testing.assert_close(weights(mine), weights(theirs), rtol=1e-4, atol=1e-6)
    assert not (mine.parent / "unfinished").exists()
    # Whether it was trained just now changes nothing.
    said = train(zygote, "again", *TENT, *TWO, two, ranks=2)
    assert ", trained before" in said and "training" in said
    require_equal(state(place / "two"), state(place / "again"))


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_next_ones_go_on(zygote: Zygote) -> None:
    place = zygote.folder
    whole, cut = (f"source_model.folder={name}" for name in ("whole", "cut"))
    train(zygote, "uncut", *TENT, *TWO, whole, ranks=2)
    code, said = zygote.call(
        "sfseg-train", *TENT, *TWO, cut, "hydra.run.dir=killed", code=KILLED, ranks=2
    )
    assert code == 6 and "process 0 of 2 waits in vain for another" in said[-2000:], said[-3000:]
    assert not list((place / "cut").glob("*/last.ckpt"))
    said = train(zygote, "killed", *TENT, *TWO, cut, "resume=auto", ranks=2)
    assert "source model: going on from step 2" in said
    require_equal(weights(model(place / "whole")), weights(model(place / "cut")))
    kept = [state(place / name) for name in ("uncut", "killed")]
    require_equal(*(content["state_dict"] for content in kept))


@pytest.mark.parametrize(
    "rule",
    [
        ["method=cbst"],
        pytest.param(["method=ld"], marks=pytest.mark.slow),
        pytest.param(["method=gta", "method.plan.discard=0.66"], marks=pytest.mark.slow),
    ],
    ids=["cbst", "ld", "discard"],
)
def test_labels_of_two_processes_are_those_of_one(zygote: Zygote, rule: list[str]) -> None:
    """First ones and, where there are rounds, those of a network that has not moved."""
    name = rule[0].partition("=")[2]
    own = [] if name == "gta" else ["method.rounds=2", "method.lr=1e-12"]
    settings = [
        *RUN,
        *rule,
        *own,
        "source_model.folder=labels",
    ]
    labels = []
    for number, more in (
        (1, ["trainer=cpu", "data.batch_size=2", "data.adaptation.batch_size=2"]),
        (2, [*TWO, "data.adaptation.batch_size=1"]),
    ):
        said = train(zygote, f"{name}-{number}", *settings, *more, ranks=number)
        assert said.count("round 2 of 2") == bool(own)
        store = zygote.folder / f"{name}-{number}" / "pseudo_labels"
        labels.append((store / "labels.u8").read_bytes())
    assert labels[0] == labels[1] and len(set(labels[0])) > 1
