"""Corrections of pseudo-labels, against loops over pixels."""

import contextlib
import copy
import logging
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fake_method import FakeMethod

from sfseg.callbacks.early_learning import EarlyLearning
from sfseg.callbacks.label_correction import LabelCorrection, Opening
from sfseg.callbacks.order import ordered
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.types import IGNORE, Measured

CLASSES, IMAGES = 4, 6
SIZE, CROP = (7, 9), (4, 5)
LABELS = LabelSpace("four", ("a", "b", "c", "d"), tuple((k, 0, 0) for k in range(CLASSES)))


class Change(NamedTuple):
    where: tuple
    before: np.ndarray
    after: np.ndarray


class Data:
    """Labels in memory, at the size of their images."""

    def __init__(self, seed=0, truth=True):
        rng = np.random.default_rng(seed)
        self.maps = rng.integers(CLASSES, size=(IMAGES, *SIZE)).astype(np.uint8)
        self.maps[rng.random(self.maps.shape) < 0.1] = IGNORE
        self.truth = rng.integers(CLASSES, size=self.maps.shape).astype(np.uint8)
        self.truth[rng.random(self.maps.shape) < 0.2] = IGNORE
        self.has_truth, self.asked = truth, 0
        self.pseudo_labels = range(IMAGES)

    def correct_pseudo_label(self, index, geometry, proposal):
        assert type(index) is int and proposal.dtype == np.uint8
        where, before, after = [], [], []
        for pixel, seen in pixels(geometry):
            old, new = self.maps[index][pixel], proposal[seen]
            if new not in (IGNORE, old):
                where.append(pixel)
                before.append(old)
                after.append(new)
                self.maps[index][pixel] = new
        rows, columns = np.array(where, int).reshape(-1, 2).T
        return Change((rows, columns), np.array(before, np.uint8), np.array(after, np.uint8))

    def true_label(self, index):
        self.asked += 1
        return self.truth[index] if self.has_truth else None

    def labelling_dataloader(self):
        for k in range(IMAGES):
            image = torch.from_numpy(np.random.default_rng(k).random((1, 3, *SIZE), np.float32))
            place = torch.tensor([[*SIZE, *SIZE, 0, 0, *SIZE, 0]])
            yield {"image": image, "index": torch.tensor([k]), "geometry": place}


def pixels(geometry):
    """A crop's pixels: those of the image, and those of the crop."""
    _, _, _, _, top, left, height, width, flip = geometry
    for row, column in np.ndindex(height, width):
        yield (top + row, left + column), (row, width - 1 - column if flip else column)


class Scripted(EarlyLearning):
    """Early learning whose classes slow when a test wants it."""

    def __init__(self, slows, every=2, window=4):
        super().__init__(every / IMAGES, window / IMAGES)
        self.slows, self.step, self.every_images, self.restarted = slows, 0, every, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.step.is_skipped:
            return
        self._images += len(outputs["prediction"])
        self.step += 1
        slowed = frozenset(self.slows.get(self.step, ()))
        if self._images % self.every_images == 0:
            pl_module.step.early_learning = Measured(slowed)
        else:
            assert not slowed, "a script that says what nobody measures"

    @property
    def blocks(self):
        return round(self.window / self.every)

    def restart(self, label):
        super().restart(label)
        self.restarted.append((label, self._images))


class Step(NamedTuple):
    index: torch.Tensor
    geometry: torch.Tensor
    prediction: torch.Tensor
    confidence: torch.Tensor


def steps(count, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        index = rng.integers(IMAGES, size=batch)
        corner = [rng.integers(s - c + 1, size=batch) for s, c in zip(SIZE, CROP, strict=True)]
        places = [
            (*SIZE, *SIZE, int(top), int(left), *CROP, int(rng.integers(2)))
            for top, left in zip(*corner, strict=True)
        ]
        prediction = rng.integers(CLASSES, size=(batch, *CROP)).astype(np.uint8)
        confidence = rng.random((batch, *CROP)).astype(np.float32)
        parts = (index, np.array(places), prediction, confidence)
        made.append(Step(*(torch.from_numpy(part) for part in parts)))
    return made


class Module(FakeMethod):
    """A method that is called with images."""

    def __call__(self, image):
        return network(image)


class World:
    """A trainer's and a module's parts that the callbacks use."""

    def __init__(self, correction, early=None, data=None):
        self.data = data or Data()
        self.early, self.correction = early, correction
        callbacks = [correction] if early is None else ordered([correction, early])
        self.trainer = SimpleNamespace(
            callbacks=callbacks, datamodule=self.data, is_global_zero=True, world_size=1,
            global_step=0, loggers=[],
            strategy=SimpleNamespace(
                reduce=lambda tensor, reduce_op: tensor, barrier=lambda name: None
            ),
            precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
        )  # fmt: skip
        self.modes = []
        self.module = Module(
            LABELS,
            eval=lambda: self.modes.append("eval"), train=lambda: self.modes.append("train"),
        )  # fmt: skip
        for callback in callbacks:
            callback.on_fit_start(self.trainer, self.module)

    def feed(self, step, *, is_skipped=False, canvas=CROP):
        self.trainer.global_step += 1
        self.module.begin_step(is_skipped=is_skipped)
        outputs = {"prediction": step.prediction, "confidence": step.confidence}
        label = np.stack([
            self._crop(int(k), place, canvas) for k, place in zip(*step[:2], strict=True)
        ])  # fmt: skip
        target = {"index": step.index, "geometry": step.geometry}
        batch = {"target": target | {"pseudo_label": torch.from_numpy(label)}}
        for callback in self.trainer.callbacks:
            callback.on_train_batch_end(self.trainer, self.module, outputs, batch, 0)

    def _crop(self, index, place, canvas):
        crop = np.full(canvas, IGNORE, np.uint8)
        for pixel, seen in pixels(place.tolist()):
            crop[seen] = self.data.maps[index][pixel]
        return crop


def network(image):
    """Logits that favour a class by the image's colours."""
    return torch.cat([image, image.mean(dim=1, keepdim=True)], dim=1) * 6


def write(maps, truth, opening, step, thresholds, is_open):
    """Naively: what a step changes, counted in the openings of its classes."""
    for index, place, prediction, confidence in zip(*step, strict=True):
        for pixel, seen in pixels(place.tolist()):
            new, k = int(prediction[seen]), int(index)
            if new not in is_open or not confidence[seen] > thresholds[new]:
                continue
            old, true = maps[k][pixel], truth[k][pixel]
            if new != old:
                maps[k][pixel] = new
                opening[new].changed += 1
                opening[new].known += int(true != IGNORE)
                opening[new].right_before += int(true == old and true != IGNORE)
                opening[new].right_after += int(true == new)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.8, 0.97])
def test_thresholds_are_sorted_quantiles_of_the_last_predictions(quantile):
    correction = LabelCorrection(quantile=quantile)
    world = World(correction, Scripted({}))
    made = steps(30, seed=3)
    for step in made:
        # The last class is rare, then gone.
        keep = step.prediction < CLASSES - 1
        world.feed(step._replace(prediction=torch.where(keep, step.prediction, 0)))
    assert correction._threshold.isnan().tolist() == [False] * 3 + [True]
    window = made[-4:]
    label = torch.stack([torch.where(s.prediction < 3, s.prediction, 0) for s in window])
    confidence = torch.stack([s.confidence for s in window])
    for k in range(3):
        mine = confidence[label == k].sort().values
        expected = mine[min(round(quantile * len(mine)), len(mine) - 1)]
        assert abs(float(correction._threshold[k] - expected)) <= 1e-3


@pytest.mark.parametrize("rule", ["paper", "release"])
def test_a_skipped_step_corrects_nothing(rule):
    correction = LabelCorrection(quantile=0.0, open_for=100, rule=rule)
    world = World(correction, Scripted({6: {0, 1, 2, 3}}))
    for step in steps(8):
        world.feed(step)
    maps, state = world.data.maps.copy(), str(correction.state_dict())
    assert correction.open
    for step in steps(8, seed=1):
        world.feed(step, is_skipped=True)
    assert (maps == world.data.maps).all() and str(correction.state_dict()) == state


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("rule", ["paper", "release"])
def test_every_change_and_every_count_is_that_of_a_loop(rule, batch):
    early = Scripted({6: {1, 3}, 10: {0, 1}, 22: {1}})
    correction = LabelCorrection(quantile=0.4, open_for=10 / IMAGES, rule=rule)
    world = World(correction, early)
    maps, truth = world.data.maps.copy(), world.data.truth
    opening, closed, last = {}, [], {}
    for number, step in enumerate(steps(40, batch, seed=1), start=1):
        world.feed(step)
        for k in early.slows.get(number, ()):
            if k not in opening:
                opening[k] = Opening(k, number, number * batch / IMAGES)
        thresholds = {} if correction._threshold is None else correction._threshold
        for k in range(batch):
            this = Step(*(part[k : k + 1] for part in step))
            image = int(step.index[k])
            used = this if rule == "paper" else last.get(image)
            if used is not None and opening:
                write(maps, truth, opening, used, thresholds, opening)
            last[image] = this._replace(confidence=this.confidence.half().float())
        np.testing.assert_array_equal(world.data.maps, maps, f"step {number}")
        for k in list(opening):
            if number * batch / IMAGES - opening[k].passes >= correction.open_for:
                opening[k].closed = number * batch / IMAGES
                closed.append(opening.pop(k))
        assert set(correction.open) == set(opening)
    found = sorted(correction.openings, key=lambda o: (o.iteration, o.label))
    assert found == sorted([*closed, *opening.values()], key=lambda o: (o.iteration, o.label))
    assert len(found) > 3 and all(o.changed > o.known > o.right_after > 0 for o in found)
    assert early.restarted == [(o.label, round(o.closed * IMAGES)) for o in closed]


def padded(step, canvas, seed):
    """The step with predictions of more than the crop, which are sure of everything."""
    rng = torch.Generator().manual_seed(seed)
    batch, (height, width) = len(step.index), CROP
    prediction = torch.randint(0, CLASSES, (batch, *canvas), generator=rng, dtype=torch.uint8)
    confidence = torch.full((batch, *canvas), 0.9999)
    prediction[:, :height, :width] = step.prediction
    confidence[:, :height, :width] = step.confidence
    return step._replace(prediction=prediction, confidence=confidence)


@pytest.mark.parametrize("rule", ["paper", "release"])
def test_what_is_predicted_of_padding_is_no_matter(rule):
    worlds = []
    for canvas in (CROP, (6, 9)):
        early = Scripted({6: {1, 3}, 10: {0, 1}})
        correction = LabelCorrection(quantile=0.4, open_for=10 / IMAGES, rule=rule)
        worlds.append(World(correction, early))
        for number, step in enumerate(steps(20, batch=2, seed=1)):
            worlds[-1].feed(padded(step, canvas, number), canvas=canvas)
    alone, wide = worlds
    assert (alone.data.maps != Data().maps).any()
    np.testing.assert_array_equal(wide.data.maps, alone.data.maps)
    assert wide.correction.openings == alone.correction.openings
    assert torch.equal(wide.correction._threshold, alone.correction._threshold)
    kept = (world.correction.state_dict()["visits"] for world in worlds)
    assert all(str(a) == str(b) for a, b in zip(*kept, strict=True))


def test_a_class_that_is_open_does_not_open_twice():
    correction = LabelCorrection(open_for=10)
    world = World(correction, Scripted({2: {1}, 4: {1}, 6: {1, 2}}))
    for step in steps(8):
        world.feed(step)
    assert [(o.label, o.iteration) for o in correction.openings] == [(1, 2), (2, 6)]


@pytest.mark.parametrize("rule", ["paper", "release"])
def test_nothing_changes_before_a_class_slows(rule):
    world = World(LabelCorrection(quantile=0.0, rule=rule), Scripted({}))
    before = world.data.maps.copy()
    for step in steps(20):
        world.feed(step)
    np.testing.assert_array_equal(world.data.maps, before)


def test_the_previous_visit_of_an_image_is_none_at_first():
    world = World(LabelCorrection(quantile=0.0, rule="release"), Scripted({2: {0, 1, 2, 3}}))
    before = world.data.maps.copy()
    step = steps(1)[0]
    for index in range(IMAGES - 1):
        world.feed(step._replace(index=torch.tensor([index])))
    np.testing.assert_array_equal(world.data.maps, before)
    world.feed(step._replace(index=torch.tensor([0])))
    assert (world.data.maps[0] != before[0]).any()
    np.testing.assert_array_equal(world.data.maps[1:], before[1:])


def test_offline_corrects_every_image_once():
    early = Scripted({4: {0, 2}, 8: {2}})
    correction = LabelCorrection("offline", quantile=0.5)
    world = World(correction, early)
    for number, step in enumerate(steps(12, seed=2), start=1):
        expected, openings = world.data.maps.copy(), len(correction.openings)
        world.feed(step)
        classes = early.slows.get(number, ())
        opening = {k: Opening(k, number, number / IMAGES, number / IMAGES) for k in classes}
        if opening:
            for whole in world.data.labelling_dataloader():
                confidence, prediction = network(whole["image"]).softmax(dim=1).max(dim=1)
                parts = (whole["index"], whole["geometry"], prediction, confidence)
                write(expected, world.data.truth, opening, Step(*parts), correction._threshold,
                      opening)  # fmt: skip
        np.testing.assert_array_equal(world.data.maps, expected)
        assert correction.openings[openings:] == [opening[k] for k in sorted(opening)]
        assert not correction.open
    assert world.modes == ["eval", "train"] * 2
    assert early.restarted == [(0, 4), (2, 4), (2, 8)]
    assert sum(o.changed for o in correction.openings) > 10


@pytest.mark.parametrize("mode", ["none", "elr"])
def test_other_modes_change_nothing_and_need_no_confidence(mode, caplog):
    early = Scripted({4: {0, 1, 2, 3}})
    correction = LabelCorrection(mode, quantile=0.0)
    world = World(correction, early)
    before = world.data.maps.copy()
    for step in steps(12):
        world.feed(step._replace(confidence=None))
    with caplog.at_level(logging.INFO):
        correction.on_train_end(world.trainer, world.module)
    np.testing.assert_array_equal(world.data.maps, before)
    assert not correction.openings and not early.restarted and world.data.asked == 0
    assert caplog.text == ""


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize(("measure", "truth"), [(False, True), (True, False)])
def test_without_measuring_or_truth_labels_change_alike(mode, measure, truth, caplog):
    worlds = []
    for options in ({}, {"measure": measure}):
        correction = LabelCorrection(mode, quantile=0.3, **options)
        worlds.append(World(correction, Scripted({4: {0, 1}}), Data(truth=truth or not options)))
        for step in steps(12):
            worlds[-1].feed(step)
    first, second = worlds
    np.testing.assert_array_equal(first.data.maps, second.data.maps)
    openings = [w.correction.openings for w in worlds]
    assert [o.changed for o in openings[0]] == [o.changed for o in openings[1]]
    assert all(o.known == o.right_before == o.right_after == 0 for o in openings[1])
    assert (second.data.asked == 0) == (not measure)
    with caplog.at_level(logging.INFO):
        second.correction.on_train_end(second.trainer, second.module)
    changed = sum(o.changed for o in openings[1])
    assert f"label correction: 2 of 4 classes, {changed} pixels" in caplog.text
    assert "right" not in caplog.text


def test_the_summary_counts_classes_once():
    correction = LabelCorrection()
    correction.labels = LABELS
    correction.openings = [
        Opening(1, 5, 0.5, 1.5, changed=1200, known=80, right_before=20, right_after=50),
        Opening(1, 9, 2.5, 3.5, changed=34, known=20, right_before=5, right_after=20),
    ]
    assert correction.summary() == (
        "label correction: 1 of 4 classes, 1,234 pixels; right, where the true label is known: "
        "25.0% before, 70.0% after"
    )


@pytest.mark.parametrize("stop", [0, 9, 13, 30])
@pytest.mark.parametrize("rule", ["paper", "release"])
def test_a_restored_run_corrects_as_an_uninterrupted_one(rule, stop, tmp_path):
    def world(data=None):
        # Slows whenever a curve may be fitted.
        early = EarlyLearning(2 / IMAGES, 4 / IMAGES, curve="cubic", threshold=1e-6)
        return World(LabelCorrection(quantile=0.5, open_for=5 / IMAGES, rule=rule), early, data)

    made = steps(40, seed=4)
    whole = world()
    for step in made[:stop]:
        whole.feed(step)
    torch.save([c.state_dict() for c in whole.trainer.callbacks], tmp_path / "state")
    rest = copy.deepcopy(whole.data)
    for step in made[stop:]:
        whole.feed(step)
    states = torch.load(tmp_path / "state", weights_only=True)
    early = EarlyLearning(2 / IMAGES, 4 / IMAGES, curve="cubic", threshold=1e-6)
    correction = LabelCorrection(quantile=0.5, open_for=5 / IMAGES, rule=rule)
    for callback, state in zip((early, correction), states, strict=True):
        callback.load_state_dict(state)
    second = World(correction, early, rest)
    second.module.iteration = stop
    for step in made[stop:]:
        second.feed(step)
    np.testing.assert_array_equal(second.data.maps, whole.data.maps)
    assert correction.openings == whole.correction.openings
    assert len(correction.openings) > 4 and correction.open == whole.correction.open
    torch.testing.assert_close(correction._threshold, whole.correction._threshold, equal_nan=True)


def test_restored_openings_go_on_counting():
    correction = LabelCorrection(open_for=10)
    world = World(correction, Scripted({2: {1}}))
    for step in steps(4):
        world.feed(step)
    other = LabelCorrection(open_for=10)
    other.load_state_dict(correction.state_dict())
    assert other.open[1] is other.openings[0]
    assert other.openings == correction.openings and other.openings[0] is not correction.open[1]


def test_only_the_first_process_goes_on_with_a_histogram():
    correction = LabelCorrection()
    world = World(correction, Scripted({}))
    world.feed(steps(1)[0])
    totals = []
    for is_first in (True, False):
        other = LabelCorrection()
        other.load_state_dict(correction.state_dict())
        ordered([world.early, other])
        world.trainer.is_global_zero = is_first
        other.on_fit_start(world.trainer, world.module)
        totals.append(int(other._histogram.sum()))
    assert totals == [CROP[0] * CROP[1], 0]


def test_needs_early_learning():
    with pytest.raises(ConfigError, match=r"callbacks=.*ordered\(\[EarlyLearning\(\.\.\.\), Label"):
        World(LabelCorrection())
    with pytest.raises(ConfigError, match=r"label_correction needs callbacks\.early_learning; add"):
        ordered([LabelCorrection()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "now"}, "mode must be one of online, offline, elr, none, got 'now'"),
        ({"rule": "next"}, "rule must be one of paper, release, got 'next'"),
        ({"quantile": 1.0}, r"quantile must be in \[0, 1\), got 1.0"),
        ({"quantile": -0.1}, r"quantile must be in \[0, 1\), got -0.1"),
        ({"quantile": float("nan")}, r"quantile must be in \[0, 1\), got nan"),
        ({"open_for": 0}, "open_for must be positive, got 0 passes"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LabelCorrection(**options)
