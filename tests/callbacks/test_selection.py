"""Which weights are kept, of a model whose scores are known."""

import logging
import math
from pathlib import Path

import pytest
import sinking
import torch
from lightning.pytorch import Callback
from sinking import Images, method, trainer

from sfseg.callbacks.ema import WeightAverage
from sfseg.callbacks.label_free_score import LabelFreeScore
from sfseg.callbacks.order import ordered
from sfseg.callbacks.provenance import Provenance
from sfseg.callbacks.selection import Selection, selection_of
from sfseg.errors import ConfigError, OutputError
from sfseg.storage.manifest import KEY

pytestmark = [pytest.mark.filterwarnings(text) for text in sinking.IGNORED]


class Run:
    """A training, as ``sfseg-train`` does it."""

    def __init__(self, folder, path, mode, *, steps=None, every=1, data=None, **more):
        self.score, self.selection = LabelFreeScore(str(folder)), Selection(str(folder), mode)
        callbacks = more.pop("callbacks", [self.score, self.selection])
        needs = more.pop("needs", ("target", "source_model"))
        self.folder, self.data = folder, data or Images()
        self.model = method(path, needs)
        self.trainer = trainer(ordered(callbacks), steps or len(path), every, **more)

    def fit(self, **more):
        self.trainer.fit(self.model, datamodule=self.data, **more)
        return self

    def conclude(self):
        self.selection.conclude(self.trainer, self.model, self.data)
        return self

    @property
    def bias(self):
        return float(self.model.network.bias[0].detach())

    def kept(self, name="selected.ckpt"):
        return torch.load(self.folder / name, weights_only=True)


def candidates(folder):
    return sorted(path.name for path in (folder / "candidates").glob("*"))


def test_the_oracle_takes_the_best_by_labels(tmp_path):
    path = [4.0, 2.0, 7.0, 0.0]
    mious = [sinking.scores(bias).miou["mIoU"] for bias in (7.0, *path)]
    run = Run(tmp_path, path, "oracle")
    run.model.source_scores["target"] = sinking.scores(7.0)
    run.fit().conclude()
    # The first of the two best.
    assert mious.index(max(mious)) == 2 and mious[2] == mious[4]
    assert run.bias == 2.0
    assert run.selection.note == ("checkpoint selected with the target's labels (oracle), step 2")
    assert float(run.kept()["state_dict"]["network.bias"][0]) == 2.0
    assert run.kept()["global_step"] == 2 and run.kept()["selection"] == run.selection.note
    assert [p.name for p in tmp_path.glob("*.ckpt")] == ["selected.ckpt"]
    assert not (tmp_path / "candidates").exists()
    assert selection_of(run.trainer.callbacks) is run.selection


def test_without_labels_the_best_score_is_taken(tmp_path):
    path = [4.0, 7.0, 0.0, 2.5]
    run = Run(tmp_path, path, "label_free", data=Images(void=True))
    run.score.goodness = lambda step: [0.3, 0.1, 0.2, 0.8, 0.4][step]
    run.fit().conclude()
    assert run.bias == 0.0 and run.kept()["global_step"] == 3
    assert run.selection.note == "checkpoint selected without labels (combined), step 3"


def test_a_collapsed_model_is_not_selected(tmp_path):
    run = Run(tmp_path, [1.0, 5.5, 9.0], "label_free").fit().conclude()
    assert run.score.measurements[-1].scores["agreement"] == 1
    assert run.kept()["global_step"] == 0 and run.bias == 0.0


def test_of_equals_the_first_is_taken(tmp_path):
    run = Run(tmp_path, [0.0, 0.0], "oracle").fit().conclude()
    assert run.kept()["global_step"] == 0


def test_the_last_weights_are_left_alone(tmp_path):
    run = Run(tmp_path, [2.0, 7.0], "last").fit().conclude()
    assert run.bias == 7.0 and run.selection.note == "" and not run.selection.state_dict()
    assert [p.name for p in tmp_path.iterdir()] == ["label_free.csv"]


@pytest.mark.parametrize("best", [0, 3])
def test_source_and_last_are_candidates_where_nothing_else_is(tmp_path, best):
    run = Run(tmp_path, [2.0, 2.0, 4.0], "label_free", every=50)
    run.score.goodness = lambda step: {0: 0.5, 3: 0.4 if best == 0 else 0.6}[step]
    run.fit()
    assert candidates(tmp_path) == ["step_000000.ckpt"]
    run.conclude()
    assert run.kept()["global_step"] == best and run.bias == (0.0 if best == 0 else 4.0)
    # The evaluation that was needed for it has names of its own.
    assert "last/target/mIoU" in run.trainer.callback_metrics and run.model.stage == "val"


def test_a_method_without_source_model_has_no_candidate_before_its_first_step(tmp_path):
    run = Run(tmp_path, [2.0, 7.0], "oracle", needs=("source", "target")).fit().conclude()
    assert run.kept()["global_step"] == 1


def test_new_weights_are_no_candidate_before_their_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(sinking.Sinking, "starts_as_source_model", False)
    run = Run(tmp_path, [2.0, 7.0], "label_free").fit().conclude()
    assert run.kept()["global_step"] == 1


class Watch(Callback):
    """Saves a checkpoint after some steps, and notes which candidates there are."""

    def __init__(self, folder: Path, saves: set[int]) -> None:
        self.folder, self.saves = folder, saves
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, world, model, batch, batch_idx):
        if world.global_step in self.saves:
            world.save_checkpoint(self.folder / f"save_{world.global_step}.ckpt")
        self.seen.append(candidates(self.folder))


def test_files_stay_as_long_as_a_checkpoint_may_need_them(tmp_path):
    run = Run(tmp_path, [1.0] * 6, "label_free")
    watch = Watch(tmp_path, {2})
    run.trainer.callbacks.append(watch)
    run.score.goodness = float
    run.fit()
    names = [f"step_{k:06d}.ckpt" for k in range(7)]
    assert watch.seen == [
        [names[0]], [names[1]], [names[2]], [names[2], names[3]], [names[2], names[4]],
        [names[2], names[5]],
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["label_free", "oracle"])
def test_a_run_that_goes_on_selects_the_same(tmp_path, mode):
    path = [1.5, 4.0, 7.0, 0.2, 5.5]
    whole = Run(tmp_path / "whole", path, mode)
    whole.model.source_scores["target"] = sinking.scores(7.0)
    whole.fit().conclude()
    cut = Run(tmp_path / "cut", path, mode, steps=4)
    cut.model.source_scores["target"] = sinking.scores(7.0)
    watch = Watch(tmp_path / "cut", {2})
    cut.trainer.callbacks.append(watch)
    cut.fit()
    again = Run(tmp_path / "cut", path, mode)
    again.fit(ckpt_path=tmp_path / "cut" / "save_2.ckpt", weights_only=True).conclude()
    assert again.selection.state_dict() == whole.selection.state_dict()
    assert again.selection.note == whole.selection.note
    mine, theirs = again.kept(), whole.kept()
    assert mine.keys() == theirs.keys() and mine["global_step"] == theirs["global_step"]
    assert torch.equal(mine["state_dict"]["network.bias"], theirs["state_dict"]["network.bias"])


def test_concluding_again_finds_what_was_selected(tmp_path):
    run = Run(tmp_path, [7.0, 5.5], "oracle").fit().conclude()
    run.model.network.bias.data.fill_(5.5)
    run.conclude()
    assert run.bias == 0.0 and run.kept()["global_step"] == 0


def test_a_checkpoint_continued_in_another_folder_begins_a_new_selection(tmp_path, caplog):
    path = [7.0, 4.0, 2.0, 7.0]
    first = Run(tmp_path / "one", path, "oracle", steps=2).fit()
    first.trainer.save_checkpoint(tmp_path / "two.ckpt")
    second = Run(tmp_path / "two", path, "oracle")
    with caplog.at_level(logging.WARNING):
        second.fit(ckpt_path=tmp_path / "two.ckpt", weights_only=True).conclude()
    assert "the weights of step 0, the best so far, are not in" in caplog.text
    assert second.kept()["global_step"] == 3 and second.bias == 2.0


def test_adapted_weights_are_not_taken_for_the_source_model(tmp_path):
    # Continued from a run that neither scored nor selected; the source model would be the best.
    path = [7.0, 7.0, 5.5, 7.0]
    first = Run(tmp_path / "one", path, "last", steps=2, callbacks=[]).fit()
    first.trainer.save_checkpoint(tmp_path / "two.ckpt")
    second = Run(tmp_path / "two", path, "oracle")
    second.model.source_scores["target"] = sinking.scores(0.0)
    second.fit(ckpt_path=tmp_path / "two.ckpt", weights_only=True).conclude()
    assert sinking.scores(0.0).miou["mIoU"] > sinking.scores(5.5).miou["mIoU"]
    assert second.kept()["global_step"] == 3 and second.bias == 5.5
    measured = second.score.measurements
    assert math.isnan(measured[0].miou) and measured[0].step == 2
    assert measured[0].vanished and not any(m.has_collapsed for m in measured)


def test_averaged_weights_are_selected_as_they_were_evaluated(tmp_path):
    average = WeightAverage(decay=0.5)
    run = Run(tmp_path, [4.0, 0.0, 7.0], "label_free")
    content = Provenance({"a": 1}, sinking.LABELS.to_dict())
    run.trainer.callbacks += [content, average]
    seen = []

    class Spy(Callback):
        def on_validation_epoch_end(self, world, model):
            seen.append(float(model.network.bias[0].detach()))

    run.trainer.callbacks.insert(0, Spy())
    run.score.goodness = lambda step: [0, 1, 2, 1][step]
    run.fit().conclude()
    assert run.kept()[KEY]["config"] == {"a": 1}
    assert float(run.kept()["state_dict"]["network.bias"][0]) == seen[1] != 0.0
    run.trainer.validate(run.model, datamodule=run.data, verbose=False)
    assert seen[-1] == seen[1]


def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "candidates").write_text("in the way")
    with pytest.raises(OutputError, match=r"the best evaluation, .* cannot be written"):
        Run(tmp_path, [1.0], "oracle").fit()


def test_what_cannot_be_selected_is_refused(tmp_path):
    with pytest.raises(ValueError, match="select must be one of last, label_free, oracle"):
        Selection("here", "best")
    plain = method([], needs=("source",))
    with pytest.raises(ConfigError, match=r"select=label_free needs a method that .* got Sinking"):
        Selection("here", "label_free").require(plain)
    Selection("here", "oracle").require(plain)
    Selection("here", "label_free").require(method([]))
    alone = Selection(str(tmp_path), "label_free")
    with pytest.raises(ConfigError, match=r"label_free_score; add it: callbacks=\[default\]"):
        ordered([alone])
    with pytest.raises(ConfigError, match="Selection needs LabelFreeScore and was not given one"):
        trainer([alone], 1).fit(method([1.0]), datamodule=Images())
    with pytest.raises(ConfigError, match=r"needs evaluations, but trainer\.limit_val_batches=0"):
        Run(tmp_path, [1.0], "oracle", limit_val_batches=0).fit()
    blind = Run(tmp_path, [1.0], "oracle", data=Images(void=True))
    with pytest.raises(ConfigError, match="needs the target's labels at every evaluation"):
        blind.fit()
