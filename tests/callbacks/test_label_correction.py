"""Corrections of pseudo-labels, against loops over pixels."""

import contextlib
import copy
import logging
import operator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fake_method import FakeMethod
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from sfseg import types
from sfseg.callbacks.base import TRAINED
from sfseg.callbacks.early_learning import EarlyLearning
from sfseg.callbacks.label_correction import LabelCorrection
from sfseg.callbacks.openings import Opening, summary
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

    def crop_pseudo_labels(self, index, geometry, canvas=CROP):
        crops = np.full((len(index), *canvas), IGNORE, np.uint8)
        for own, k, place in zip(crops, index.tolist(), geometry, strict=True):
            own[: CROP[0], : CROP[1]] = crop(self.maps[k], place)
        return torch.from_numpy(crops)

    def count_pseudo_labels(self):
        return torch.from_numpy(np.bincount(self.maps.ravel(), minlength=256)[:CLASSES])

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


def crop(label, place):
    found = np.zeros(CROP, np.uint8)
    for pixel, seen in pixels(place.tolist()):
        found[seen] = label[pixel]
    return found


class Scripted(EarlyLearning):
    """Early learning whose classes slow when a test wants it."""

    def __init__(self, slows, every=2, window=4, rule="paper"):
        super().__init__(every / IMAGES, window / IMAGES, rule=rule)
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
        """Train on a step; returns the labels that it was shown."""
        self.trainer.global_step += 1
        label = self.data.crop_pseudo_labels(step.index, step.geometry, canvas)
        target = {"index": step.index, "geometry": step.geometry, "pseudo_label": label}
        for callback in self.trainer.callbacks:
            callback.on_train_batch_start(self.trainer, self.module, {"target": target}, 0)
        self.module.begin_step(is_skipped=is_skipped)
        shown = target["pseudo_label"].clone()
        outputs = {"prediction": step.prediction, "confidence": step.confidence}
        for callback in self.trainer.callbacks:
            callback.on_train_batch_end(self.trainer, self.module, outputs, {"target": target}, 0)
        return shown


def network(image):
    """Logits that favour a class by the image's colours."""
    return torch.cat([image, image.mean(dim=1, keepdim=True)], dim=1) * 6


def write(maps, truth, opening, step, thresholds, is_open, compare=operator.gt):
    """Naively: what a step changes, counted in the openings of its classes."""
    for index, place, prediction, confidence in zip(*step, strict=True):
        for pixel, seen in pixels(place.tolist()):
            new, k = int(prediction[seen]), int(index)
            if new not in is_open or not compare(confidence[seen], thresholds[new]):
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
    assert correction.open
    if rule == "release":
        # What the visits before have said is written when a step begins, whatever it comes to.
        for k in range(IMAGES):
            world.feed(steps(1)[0]._replace(index=torch.tensor([k])), is_skipped=True)
    maps, state = world.data.maps.copy(), str(correction.state_dict())
    for step in steps(8, seed=1):
        world.feed(step, is_skipped=True)
    assert (maps == world.data.maps).all() and str(correction.state_dict()) == state


def close(opening, now, open_for):
    over = [k for k, o in opening.items() if now - o.passes >= open_for]
    for k in over:
        opening[k].closed = now
    return [opening.pop(k) for k in over]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("rule", ["paper", "release"])
def test_every_change_and_every_count_is_that_of_a_loop(rule, batch):
    """By ``paper`` what a step predicts is written after it; by ``release`` before the next."""
    early = Scripted({6: {1, 3}, 10: {0, 1}, 22: {1}}, every=2, rule=rule)
    correction = LabelCorrection(quantile=0.4, open_for=9 / IMAGES, rule=rule, max_growth=None)
    world = World(correction, early)
    maps, truth = world.data.maps.copy(), world.data.truth
    opening, closed, last, restarted = {}, [], {}, []
    for number, step in enumerate(steps(40, batch, seed=1), start=1):
        now, thresholds = number * batch / IMAGES, correction._threshold
        visits = [Step(*(part[k : k + 1] for part in step)) for k in range(batch)]
        for visit in visits if rule == "release" else []:
            before = last.get(int(visit.index))
            if before and set(crop(maps[before.index], before.geometry[0]).flat) & set(opening):
                write(maps, truth, opening, before, thresholds, opening, operator.ge)
        before = [crop(maps[int(v.index)], v.geometry[0]) for v in visits]
        np.testing.assert_array_equal(world.feed(step), before, f"step {number}")
        last |= {int(visit.index): visit for visit in visits}
        if rule == "release" and number * batch % 2 == 0:
            closed += close(opening, now, correction.open_for)
        new = {k: Opening(k, number, now) for k in early.slows.get(number, ()) if k not in opening}
        opening |= new
        if rule == "paper":
            if opening:
                write(maps, truth, opening, step, correction._threshold, opening)
            ended = close(opening, now, correction.open_for)
            closed += ended
            restarted += [(o.label, number * batch) for o in ended]
        else:
            restarted += [(k, number * batch) for k in sorted(new)]
        np.testing.assert_array_equal(world.data.maps, maps, f"step {number}")
        assert set(correction.open) == set(opening)
    found = sorted(correction.openings, key=lambda o: (o.iteration, o.label))
    assert found == sorted([*closed, *opening.values()], key=lambda o: (o.iteration, o.label))
    assert len(found) > 3 and all(o.changed > o.known > o.right_after > 0 for o in found)
    assert early.restarted == restarted


def looking_back(thresholds, openings, state=None):
    """A correction by ``release`` at the time when classes are open."""
    correction = LabelCorrection(quantile=0.5, open_for=100, rule="release")
    if state is not None:
        correction.load_state_dict(state)
    world = World(correction, Scripted({}, every=999, window=999))
    correction._threshold = torch.tensor(thresholds)
    correction.open = {k: Opening(k, 1, 0.0) for k in openings}
    world.data.maps[:] = 0
    return world


def seen(image, label, confidence, *, left=0):
    """A visit of the first rows of an image, in all of which the same is predicted."""
    place = torch.tensor([[*SIZE, *SIZE, 0, left, *CROP, 0]])
    prediction = torch.full((1, *CROP), label, dtype=torch.uint8)
    return Step(torch.tensor([image]), place, prediction, torch.full((1, *CROP), confidence))


def test_a_visit_trains_on_what_the_one_before_has_predicted():
    world = looking_back([0.5, 0.5, 0.5, 0.5], {0, 1})
    shown = [
        world.feed(visit).unique().tolist()
        for visit in (
            seen(2, 1, 0.9),
            seen(3, 1, 0.9),  # another image
            seen(2, 2, 0.9),  # written is what the first visit has predicted
            seen(2, 1, 0.1),  # 2 is not open
            seen(2, 0, 0.9, left=1),  # 1 is not certain enough
            seen(2, 1, 0.9),  # written is 0, in the crop of then, which is one column further
            seen(2, 1, 0.9),
        )
    ]
    assert shown == [[0], [0], [1], [1], [0, 1], [0, 1], [1]]
    assert world.data.maps[2, 0].tolist() == [1] * 5 + [0] * 4
    assert not world.data.maps[[0, 1, 3, 4, 5]].any()


def test_a_crop_without_a_label_of_an_open_class_stays_as_it_is():
    world = looking_back([0.5, 0.5, 0.5, 0.5], {1, 3})
    for _ in range(2):
        world.feed(seen(2, 1, 0.9))
    assert not world.data.maps.any()
    world.data.maps[2, 3, 4] = 3
    world.feed(seen(2, 1, 0.9))
    assert (world.data.maps[2, :4, :5] == 1).all() and world.data.maps[2].sum() == 20


def test_a_confidence_that_equals_its_threshold_counts_for_the_release_alone():
    threshold = torch.tensor(0.7001, dtype=torch.float32)
    below = torch.nextafter(threshold, torch.tensor(0.0))
    for confidence, is_written in ((threshold, True), (below, False)):
        world = looking_back([0.0, float(threshold), 0.0, 0.0], {0, 1})
        for _ in range(2):
            world.feed(seen(2, 1, float(confidence)))
        assert world.data.maps.any() == is_written
    paper = LabelCorrection(quantile=0.5, max_growth=None)
    paper._threshold, paper.open = threshold.repeat(CLASSES), {1: Opening(1, 1, 0.0)}
    prediction = torch.ones(2, dtype=torch.uint8)
    above = torch.nextafter(threshold, torch.tensor(1.0))
    assert paper._proposal(prediction, torch.stack([threshold, above])).tolist() == [IGNORE, 1]


def test_checkpoints_hold_confidences_in_full_and_may_have_held_half_of_them():
    world = looking_back([0.0] * CLASSES, {0, 1})
    world.feed(seen(2, 1, 0.7001))
    world.correction.open = {}
    state = world.correction.state_dict()
    assert state["visits"][2][2].dtype == torch.float32
    assert (state["visits"][2][2] == torch.tensor(0.7001)).all()
    state["visits"][2][2] = state["visits"][2][2].half()
    restored = looking_back([0.0, 0.7001, 0.0, 0.0], {0, 1}, state)
    assert restored.correction._visits.read(2).confidence.dtype == torch.float32
    # As precise as it was: 0.7002.
    restored.feed(seen(2, 1, 0.9))
    assert restored.data.maps.any()


class Serves(Data, LightningDataModule):
    """The same visit in every step."""

    def __init__(self):
        LightningDataModule.__init__(self)
        Data.__init__(self)
        self.maps[:] = 0

    def train_dataloader(self):
        visit = seen(2, 1, 0.9)
        target = {"index": visit.index, "geometry": visit.geometry}
        return DataLoader([{"target": target}] * 5, batch_size=None)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        target = batch["target"]
        label = self.crop_pseudo_labels(target["index"], target["geometry"])
        return {"target": target | {"pseudo_label": label}}


class Sees(LightningModule):
    """Remembers the labels that it is shown; certain of class 1."""

    def __init__(self):
        super().__init__()
        for name, value in vars(FakeMethod(LABELS)).items():
            if name in TRAINED:
                setattr(self, name, value)
        self.weight, self.shown = torch.nn.Parameter(torch.zeros(())), []

    def on_train_batch_start(self, batch, batch_idx):
        self.step = types.Step(batch_idx + 1)

    def training_step(self, batch, batch_idx):
        self.shown.append(batch["target"]["pseudo_label"].unique().tolist())
        visit = seen(2, 1, 0.9)
        outputs = {"prediction": visit.prediction, "confidence": visit.confidence}
        return {"loss": self.weight.square()} | outputs

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_training_sees_what_is_written_when_its_step_begins():
    """Lightning hands the batch that callbacks have seen to the step."""
    correction = LabelCorrection(quantile=0.0, open_for=100, rule="release", max_growth=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=ordered([correction, Scripted({2: {0, 1}})]),
    )  # fmt: skip
    module = Sees()
    trainer.fit(module, datamodule=Serves())
    assert module.shown == [[0], [0], [1], [1], [1]]


def test_thresholds_of_the_release_are_of_the_last_visit_of_every_image():
    correction = LabelCorrection(quantile=0.6, rule="release")
    world, last = World(correction, Scripted({})), {}
    for step in steps(30, seed=3):
        world.feed(step)
        last[int(step.index)] = step
    label = torch.cat([step.prediction for step in last.values()])
    confidence = torch.cat([step.confidence for step in last.values()])
    for k in range(CLASSES):
        mine = confidence[label == k].sort().values
        assert -1e-3 <= float(correction._threshold[k] - mine[round(0.6 * len(mine))]) <= 1e-6
    # Where the published code cuts confidences off, they are the threshold.
    for k in range(IMAGES):
        world.feed(seen(k, 1, 1 - 1e-3))
    assert correction._threshold[1] == torch.tensor(1 - 1e-3)


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
    for index in range(IMAGES):
        world.feed(step._replace(index=torch.tensor([index])))
    np.testing.assert_array_equal(world.data.maps, before)


def test_offline_corrects_every_image_once():
    early = Scripted({4: {0, 2}, 8: {2}})
    correction = LabelCorrection("offline", quantile=0.5, max_growth=None)
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
    openings = [
        Opening(1, 5, 0.5, 1.5, changed=1200, known=80, right_before=20, right_after=50),
        Opening(1, 9, 2.5, 3.5, changed=34, known=20, right_before=5, right_after=20),
    ]
    assert summary(openings, 4) == (
        "label correction: 1 of 4 classes, 1,234 pixels; right, where the true label is known: "
        "25.0% before, 70.0% after"
    )


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_class_that_has_spread_too_far_takes_no_more_pixels(mode, caplog):
    correction = LabelCorrection(mode, quantile=0.0, open_for=100, max_growth=1.5)
    world = World(correction, Scripted({6: {1}, 8: {2}}))
    first = world.data.count_pseudo_labels()
    flood = [step._replace(prediction=torch.full_like(step.prediction, 1)) for step in steps(60)]
    for step in flood:
        free = world.data.count_pseudo_labels()[1] < 1.5 * first[1]
        before = world.data.maps.copy()
        world.feed(step)
        assert free or (before == world.data.maps).all()
    counts = world.data.count_pseudo_labels()
    assert torch.equal(counts, correction.growth.now)
    (opening, _) = correction.openings
    if mode == "online":
        area = CROP[0] * CROP[1]
        assert 1.5 * first[1] <= counts[1] < 1.5 * first[1] + area
        assert opening.refused > 0
        assert caplog.text.count("b takes no more pixels: its labels cover 1.") == 1
        assert f"{opening.refused:,} refused" in summary(correction.openings, 4)


def test_a_growth_below_the_start_is_refused():
    with pytest.raises(ValueError, match=r"max_growth must be at least 1, .* got 0\.5"):
        LabelCorrection(max_growth=0.5)


@pytest.mark.parametrize("stop", [0, 9, 13, 30])
@pytest.mark.parametrize("rule", ["paper", "release"])
def test_a_restored_run_corrects_as_an_uninterrupted_one(rule, stop, tmp_path):
    def pair():
        # Slows whenever a curve may be fitted.
        early = EarlyLearning(2 / IMAGES, 4 / IMAGES, curve="cubic", threshold=1e-6)
        limit = {"max_growth": 1.1} if rule == "paper" else {}
        return LabelCorrection(quantile=0.5, open_for=5 / IMAGES, rule=rule, **limit), early

    made = steps(40, seed=4)
    whole = World(*pair())
    for step in made[:stop]:
        whole.feed(step)
    torch.save([c.state_dict() for c in whole.trainer.callbacks], tmp_path / "state")
    rest = copy.deepcopy(whole.data)
    for step in made[stop:]:
        whole.feed(step)
    states = torch.load(tmp_path / "state", weights_only=True)
    correction, early = pair()
    for callback, state in zip((early, correction), states, strict=True):
        callback.load_state_dict(state)
    second = World(correction, early, rest)
    second.module.iteration = stop
    for step in made[stop:]:
        second.feed(step)
    np.testing.assert_array_equal(second.data.maps, whole.data.maps)
    assert correction.openings == whole.correction.openings
    assert rule == "release" or any(opening.refused for opening in correction.openings)
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
