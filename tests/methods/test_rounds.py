"""Self-training in rounds: when images are labelled anew, with which share, by which network."""

import logging

import numpy as np
import pytest
import torch
from self_training import IMAGES, Data, attached, batch, make, residual
from small import built, configured, fit, head, transformer

from sfseg.labels import CITYSCAPES
from sfseg.methods.labeller import Relabelled
from sfseg.methods.labelling import Selection
from sfseg.methods.rounds import SelfTraining, label_anew
from sfseg.pseudo.reader import PseudoLabels
from sfseg.types import IGNORE

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]


def test_rounds_are_of_equal_length():
    method = make("cbst")
    for rounds, steps, accumulate, begin in (
        (1, 6, 1, {}),
        (3, 6, 1, {2: 1, 4: 2}),
        (3, 6, 2, {4: 1, 8: 2}),
        (3, 7, 1, {3: 1, 5: 2}),
        (3, 2, 1, {1: 1}),
        (4, 2, 1, {1: 2}),
        (3, 1, 1, {}),
    ):
        method.rounds, method.steps = rounds, steps
        method._trainer = attached(accumulate_grad_batches=accumulate)
        found = {}
        for method.iteration in range(1, 2 * steps * accumulate + 1):
            if (number := method._beginning_round()) is not None:
                found[method.iteration] = number
        assert found == begin


def test_each_round_is_labelled_by_the_network_at_its_end(tmp_path, monkeypatch):
    method = make("cbst", rounds=3, steps=6, selection=Selection("ld", portion=0.3))
    data, before, after = Data(tmp_path / "s", 6), {}, {}
    states, shares, true_step = {}, {}, SelfTraining.on_train_batch_end

    def watched(self, outputs, batch, batch_idx):
        before[self.iteration] = data.labels()
        true_step(self, outputs, batch, batch_idx)
        after[self.iteration] = data.labels()
        states[self.iteration] = {n: v.clone() for n, v in self.network.state_dict().items()}
        shares[self.iteration] = np.mean(np.array(after[self.iteration]) != IGNORE)

    monkeypatch.setattr(SelfTraining, "on_train_batch_end", watched)
    fit(method, data)
    changed = [k for k in before if not np.array_equal(before[k], after[k])]
    assert changed == [2, 4] and data.pseudo_labels.commit().generation == 1
    assert method.network.training and method.network.head.training
    assert shares[1] == 0 and shares[2] == shares[3] < shares[4] == shares[6]
    # At least of each class, at most beside those another portion of each image.
    assert 0.35 <= shares[2] <= 0.7 and 0.4 <= shares[4] <= 0.8
    # By the network at that step, which labels all images but once more.
    network = transformer()
    for iteration, portion in ((2, 0.35), (4, 0.4)):
        network.load_state_dict(states[iteration])
        other = make("cbst", network, selection=Selection("ld", portion=portion))
        store = Data(tmp_path / str(iteration), 1)
        other._trainer = attached(
            datamodule=store, is_global_zero=True, strategy=Still(), precision_plugin=Still()
        )
        other._relabel(0)
        np.testing.assert_array_equal(store.labels(), after[iteration])


class Still:
    """What a trainer of one process has."""

    def barrier(self, name):
        pass

    def forward_context(self):
        return torch.enable_grad()


def test_other_processes_wait_and_write_nothing(tmp_path):
    waits = []

    class Waiting(Still):
        def barrier(self, name):
            waits.append(name)

    method, data = make("cbst"), Data(tmp_path / "s", 1)
    writer, data.pseudo_labels = data.pseudo_labels, PseudoLabels(tmp_path / "s")
    method._trainer = attached(datamodule=data, strategy=Waiting(), precision_plugin=Still())
    share = label_anew(method, Selection("cbst", portion=0.5)).share
    assert 0 < share < 1 and waits == ["pseudo-labels"]
    assert (np.array(data.labels()) == IGNORE).all() and writer.commit().generation == 0


def test_a_method_of_another_kind_labels_anew(tmp_path):
    """One that is no self-training, in the mode that its parts are in."""
    method, data = built(configured("method=minent"), transformer(19), CITYSCAPES), None
    method._trainer = attached(datamodule=data)
    assert label_anew(method, Selection()) is None
    data = Data(tmp_path / "s", 1)
    method._trainer = attached(datamodule=data, strategy=Still(), precision_plugin=Still())
    method.train()
    assert label_anew(method, Selection()).share == 1.0
    assert (np.array(data.labels()) != IGNORE).all() and method.network.training


def test_portions_grow_up_to_the_largest(tmp_path, monkeypatch):
    seen = []

    def remembered(model, batches, store, selection, *, context):
        assert len(list(batches())) == len(store) == IMAGES
        seen.append(selection)
        return Relabelled(0.0, None, None)

    monkeypatch.setattr("sfseg.methods.rounds.relabel", remembered)
    method = make("cbst", rounds=4, steps=4, portion_step=0.1, portion_max=0.35)
    fit(method, Data(tmp_path / "s", 4))
    expected = [Selection("cbst", portion=p, flip=True) for p in (0.3, 0.35, 0.35)]
    assert [s.portion for s in seen] == pytest.approx([s.portion for s in expected])
    assert all(s.rule == "cbst" and s.flip for s in seen)


def test_a_skipped_step_ends_its_round_all_the_same(tmp_path):
    method, data = make("cbst", rounds=2, steps=2), Data(tmp_path / "s", 2)
    method.on_after_backward = lambda: setattr(method.step, "is_skipped", True)
    fit(method, data)
    assert (np.array(data.labels()) != IGNORE).any()


def test_without_a_data_module_labels_stay(caplog):
    with caplog.at_level(logging.WARNING):
        fit(make("cbst", rounds=2, steps=2), [batch(seed=k) for k in range(2)])
    assert caplog.text.count("there is no DataModule, whose labels would be replaced") == 1


@pytest.mark.parametrize("name", ["cbst", "urma"])
def test_an_auxiliary_head_stays_as_it_is(name):
    method = make(name, residual(aux=head))
    assert not any(p.requires_grad for p in method.network.aux_head.parameters())
    assert any(p.requires_grad for p in method.network.backbone.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"portion_step": -0.1}, "portion_step must not be negative, got -0.1"),
        ({"portion_max": 0.1}, r"portion_max must be at least the first .*, 0.2, .* got 0.1"),
        ({"portion_max": 1.1}, r"portion_max must be .* at most 1, got 1.1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make("cbst", **options)
