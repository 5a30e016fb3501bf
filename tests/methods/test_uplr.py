"""UPLR: which part a step is of, what begins a part, and what the labels add."""

from types import SimpleNamespace

import pytest
import small
import torch

from sfseg.errors import ConfigError
from sfseg.ops.entropy import normalized_entropy
from sfseg.types import IGNORE

pytestmark = small.QUIET


def made(*overrides, num_classes=19, seed=0):
    cfg = small.configured("method=uplr", "trainer.max_steps=10", *overrides)
    torch.manual_seed(seed)
    return small.built(cfg, small.transformer(num_classes))


def batch(seed=0):
    target = small.batch((64, 64), seed=seed)["target"]
    source = small.batch((64, 64), seed=seed + 1)["target"]
    source["label"] = source.pop("pseudo_label")
    return {"source": source, "target": target}


class Data:
    """A DataModule that remembers what it was asked for; its images are labelled by nobody."""

    pseudo_labels = None

    def __init__(self, images=3):
        self.images = [small.batch((32, 64), seed=k)["target"] for k in range(images)]
        self.focused = []

    def labelling_dataloader(self):
        return [{**b, "image": b["image"][:1], "index": b["index"][:1]} for b in self.images]

    def focus(self, classes):
        self.focused.append(list(classes))


def begun(method, monkeypatch, steps=10):
    """Parts that begin before each batch, from 1, and what they do."""
    found = {}
    for iteration in range(1, steps + 1):
        method.iteration = iteration
        events = []
        monkeypatch.setattr(method, "_label", lambda number, e=events: e.append(f"labels {number}"))
        monkeypatch.setattr(
            method, "class_entropy", lambda data, e=events: e.append("classes") or torch.ones(19)
        )
        after = method._part(iteration)
        if method._part(iteration - 1) < after < method.parts:
            method._begin(after)
        if events:
            found[iteration + 1] = events
    return found


def test_parts_begin_where_the_loaders_begin_anew(monkeypatch):
    method = made("method.stages=3", "method.rounds=2", "method.k=4")
    method.trainer = SimpleNamespace(datamodule=Data(), is_global_zero=True)
    starts = [k * 10 // 5 + 1 for k in range(1, 5)]
    found = begun(method, monkeypatch)
    assert list(found) == starts == [3, 5, 7, 9]
    assert list(found.values()) == [
        ["classes"], ["classes"], ["classes", "labels 1"], ["classes", "labels 2"]
    ]  # fmt: skip
    focused = method.trainer.datamodule.focused
    assert focused == [list(range(19))] * 4


def test_without_k_no_class_is_singled_out_and_without_rounds_nothing_is_labelled(monkeypatch):
    method = made("method.k=null", "method.rounds=0", "method.stages=2")
    method.trainer = SimpleNamespace(datamodule=Data(), is_global_zero=True)
    assert begun(method, monkeypatch) == {}
    assert method.trainer.datamodule.focused == []


def test_uncertain_classes_need_a_sampler_that_prefers_some():
    method = made()
    method.require_data(SimpleNamespace(follows_focus=True))
    with pytest.raises(ConfigError, match=r"method.k=5 needs .* data/sampler=soft_balance"):
        method.require_data(SimpleNamespace(follows_focus=False))
    made("method.k=null").require_data(SimpleNamespace(follows_focus=False))


def test_steps_that_parts_do_not_divide_leave_no_batch_out():
    method = made("method.stages=3", "method.rounds=0")
    parts = [method._part(batches) for batches in range(10)]
    assert parts == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("part", ["stage", "round"])
def test_pseudo_labels_train_in_rounds_alone(part):
    method = made("method.stages=1", "method.rounds=1")
    method.iteration = 1 if part == "stage" else 6
    data = batch()
    looks = method.look_at(data["source"]), method.look_at(data["target"])
    terms = method.segmenter_terms(data, *looks)
    assert ("target_cross_entropy" in terms) == (part == "round")
    if part == "round":
        logits, label = looks[1].levels[0].double(), data["target"]["pseudo_label"]
        expected = torch.nn.functional.cross_entropy(logits, label.long(), ignore_index=IGNORE)
        torch.testing.assert_close(
            terms["target_cross_entropy"].double(), expected, atol=1e-5, rtol=0
        )


def test_without_labels_yet_a_round_learns_nothing_of_the_target():
    method = made("method.stages=0", "method.rounds=1")
    method.iteration = 1
    data = batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    looks = method.look_at(data["source"]), method.look_at(data["target"])
    assert method.segmenter_terms(data, *looks)["target_cross_entropy"] == 0


def test_class_entropy_is_that_of_all_images_pixel_by_pixel():
    method, data = made(), Data()
    method.trainer = SimpleNamespace(
        datamodule=data, precision_plugin=small.trainer().precision_plugin
    )
    found = method.class_entropy(data)
    assert method.training
    method.eval()
    total, count = torch.zeros(19).double(), torch.zeros(19).double()
    with torch.no_grad():
        for images in data.labelling_dataloader():
            logits = method(images["image"])
            entropy, label = normalized_entropy(logits)[0], logits.argmax(dim=1)[0]
            for value, own in zip(entropy.flatten(), label.flatten(), strict=True):
                total[own] += float(value)
                count[own] += 1
    expected = torch.where(count > 0, total / count.clamp(min=1), 1.0)
    assert 0 < (count > 0).sum() < 19
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_fewer_steps_than_parts_leave_some_out(monkeypatch):
    method = made("trainer.max_steps=2")
    calls = []
    monkeypatch.setattr(method, "_begin", calls.append)
    method.on_train_start()
    assert [method._part(batches) for batches in range(3)] == [2, 4, 5]
    assert calls == [2]


def test_a_resumed_run_does_not_begin_again(monkeypatch):
    method = made("method.stages=0", "method.rounds=2")
    calls = []
    monkeypatch.setattr(method, "_begin", calls.append)
    method.on_train_start()
    method.iteration = 3
    method.on_train_start()
    assert calls == [0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method.k=20"], "k must be from 1 to the 19 classes, got 20"),
        (["method.k=0"], "k must be from 1 to the 19 classes, got 0"),
        (["method.stages=0", "method.rounds=0"], r"stages \+ rounds must be at least 1, got 0"),
        (["method.stages=-1"], "stages must be at least 0, got -1"),
        (["method.target_weight=-1"], "target_weight must not be negative"),
        (["method.pseudo_label.scope=all"], "pseudo_label.scope must be one of image, dataset"),
    ],
)
def test_bad_settings_are_refused(overrides, words):
    with pytest.raises(Exception, match=words):
        made(*overrides)
