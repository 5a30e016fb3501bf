"""Averaged weights are what is evaluated, scored and kept, wherever the average stands."""

import itertools
import json
import os
import signal

import pytest
import sinking
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from sinking import Images, method, predicted, trainer

from sfseg.callbacks.checkpoint import SIGNALS, Checkpoint
from sfseg.callbacks.ema import WeightAverage
from sfseg.callbacks.label_free_score import LabelFreeScore
from sfseg.callbacks.order import Ordered, ordered
from sfseg.callbacks.panels import Panels
from sfseg.callbacks.results import Results
from sfseg.callbacks.selection import Selection
from sfseg.errors import PreemptedError

pytestmark = [pytest.mark.filterwarnings(text) for text in sinking.IGNORED]
PATH = [4.0, 0.0, 9.0, 1.0]
AVERAGES = [4.0, 2.0, 5.5, 3.25]
"""Half of the last one and half of the weight at hand; the first is the weight itself."""


class Look(Ordered):
    """A user's callback that looks at the weights that were evaluated."""

    before = (WeightAveraging,)

    def __init__(self):
        self.seen = []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.seen.append(float(pl_module.network.bias[0].detach()))


class Shown(Panels):
    """Keeps what was drawn."""

    def __init__(self, folder):
        super().__init__(folder)
        self.shown = []

    def on_validation_end(self, trainer, pl_module):
        self.shown += [prediction[0].tolist() for *_, prediction in self.examples]
        super().on_validation_end(trainer, pl_module)


def run(folder, path, callbacks, select="oracle"):
    """A training as ``sfseg-train`` does it; returns all that was found out about the weights."""
    score, look = LabelFreeScore(str(folder)), Look()
    selection, panels = Selection(str(folder), select), Shown(str(folder / "panels"))
    results = Results(str(folder), "title")
    made = {"score": score, "selection": selection, "panels": panels, "results": results,
            "look": look, "ema": WeightAverage(decay=0.5)}  # fmt: skip
    model, data = method(path), Images()
    world = trainer(ordered([made[name] for name in callbacks]), len(path))
    world.fit(model, datamodule=data)
    selection.conclude(world, model, data)
    world.validate(model, datamodule=data, verbose=False)
    return {
        "scores": [m.scores for m in score.measurements],
        "miou": [m.miou for m in score.measurements],
        "seen": look.seen,
        "shown": panels.shown,
        "results": json.loads((folder / "results.json").read_text()),
        "note": selection.note,
        "kept": float(selection_weights(folder)["network.bias"][0]),
    }


def selection_weights(folder):
    return torch.load(folder / "selected.ckpt", weights_only=True)["state_dict"]


OTHERS = ["score", "selection", "panels", "results"]


@pytest.mark.parametrize("select", ["oracle", "label_free"])
@pytest.mark.parametrize("place", range(len(OTHERS) + 1))
def test_wherever_it_stands_the_averages_are_what_is_seen(tmp_path, place, select):
    # Weights that are these averages, without any averaging, are the truth.
    truth = run(tmp_path / "plain", AVERAGES, OTHERS, select)
    found = run(tmp_path / "ema", PATH, [*OTHERS[:place], "ema", *OTHERS[place:]], select)
    assert truth["shown"][: len(PATH)] == [predicted(average) for average in AVERAGES]
    assert truth["results"]["target"]["selection"]["mode"] == select
    assert found == truth


def test_the_others_may_stand_anyhow(tmp_path):
    truth = run(tmp_path / "plain", AVERAGES, [*OTHERS, "look"], "label_free")
    assert truth["seen"][: len(PATH)] == AVERAGES
    orders = list(itertools.permutations(["ema", *OTHERS, "look"]))[::97]
    for k, order in enumerate(orders):
        assert run(tmp_path / str(k), PATH, order, "label_free") == truth


class Save(Callback):
    """Saves in the middle of an evaluation, as a signal does."""

    def __init__(self, path):
        self.path = path

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == 2 and not self.path.exists():
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_of_an_evaluation_knows_the_weights_from_their_average(tmp_path):
    during, look = tmp_path / "during.ckpt", Look()
    world = trainer([WeightAverage(decay=0.5), Save(during)], 2)
    world.fit(method(PATH), datamodule=Images())
    content = torch.load(during, weights_only=True)
    assert float(content["current_model_state"]["network.bias"][0]) == PATH[1]
    assert float(content["state_dict"]["network.bias"][0]) == AVERAGES[1]
    again = trainer([look, WeightAverage(decay=0.5)], 4)
    again.fit(method(PATH), datamodule=Images(), ckpt_path=during, weights_only=True)
    assert look.seen[-2:] == AVERAGES[2:]


class Term(Callback):
    """Sends itself SIGTERM when an evaluation of some step begins."""

    def __init__(self, step):
        self.step = step

    def on_validation_epoch_start(self, trainer, pl_module):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def own_signals():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def parts(folder, select, *more):
    """Callbacks of a run, as the configuration has them, and the model and data."""
    score, selection = LabelFreeScore(str(folder)), Selection(str(folder), select)
    made = [*more, score, selection, WeightAverage(decay=0.5), Checkpoint(str(folder), 1)]
    return selection, trainer(ordered(made), len(PATH)), method(PATH), Images()


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(("step", "select"), [(1, "oracle"), (2, "label_free"), (4, "oracle")])
def test_a_signal_in_an_evaluation_saves_weights_and_average_each_in_its_place(
    tmp_path, step, select
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    selection, world, model, data = parts(whole, select)
    world.fit(model, datamodule=data)
    world.save_checkpoint(whole / "last.ckpt")
    selection.conclude(world, model, data)
    _, world, model, data = parts(cut, select, Term(step))
    with pytest.raises(PreemptedError, match=f"after step {step}"):
        world.fit(model, datamodule=data)
    last = torch.load(cut / "last.ckpt", weights_only=True)
    assert float(last["current_model_state"]["network.bias"][0]) == PATH[step - 1]
    assert float(last["state_dict"]["network.bias"][0]) == AVERAGES[step - 1]
    selection, world, model, data = parts(cut, select)
    world.fit(model, datamodule=data, ckpt_path=cut / "last.ckpt", weights_only=True)
    world.save_checkpoint(cut / "last.ckpt")
    selection.conclude(world, model, data)
    for name in ("last.ckpt", "selected.ckpt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (whole, cut))
        for key in ("state_dict", "current_model_state", "averaging_state"):
            assert one[key].keys() == other[key].keys()
            assert all(torch.equal(one[key][k], other[key][k]) for k in one[key]), (name, key)
    kept = torch.load(cut / "selected.ckpt", weights_only=True)
    weights = [float(kept[key]["network.bias"][0]) for key in ("state_dict", "current_model_state")]
    assert tuple(weights) in {(0.0, 0.0), *zip(AVERAGES, PATH, strict=True)}


def test_a_checkpoint_of_the_end_goes_on_with_the_weights_that_train(tmp_path):
    last, look = tmp_path / "last.ckpt", Look()
    world = trainer([WeightAverage(decay=0.5)], 2)
    world.fit(method(PATH), datamodule=Images())
    world.save_checkpoint(last)
    content = torch.load(last, weights_only=True)
    assert float(content["current_model_state"]["network.bias"][0]) == PATH[1]
    assert float(content["state_dict"]["network.bias"][0]) == AVERAGES[1]
    again = trainer([look, WeightAverage(decay=0.5)], 4)
    again.fit(method(PATH), datamodule=Images(), ckpt_path=last, weights_only=True)
    assert look.seen[-2:] == AVERAGES[2:]


def test_an_average_of_weights_in_half_precision_moves_and_survives_evaluations():
    model, average = method([0.0]), WeightAverage(decay=0.999)
    average.setup(trainer([average], 1), model, "fit")
    model.to(torch.bfloat16)
    bias = model.network.bias.data

    def averaged(value):
        bias.fill_(value)
        average._average_model.update_parameters(model)
        return average._average_model.module.network.bias.clone()

    averaged(1.0)
    moved = averaged(2.0)
    torch.testing.assert_close(moved, torch.full_like(moved, 1.001))
    average.on_validation_epoch_start(None, model)
    checkpoint = {"state_dict": model.state_dict()}
    average.on_save_checkpoint(None, model, checkpoint)
    average.on_validation_epoch_end(None, model)
    assert torch.equal(average._average_model.module.network.bias, moved)
    assert torch.equal(checkpoint["state_dict"]["network.bias"], moved)
    assert torch.equal(bias, torch.full_like(bias, 2.0))


def test_an_average_that_would_never_move_is_refused():
    with pytest.raises(ValueError, match="update_every_n_steps must be at least 1, got 0"):
        WeightAverage(update_every_n_steps=0)
