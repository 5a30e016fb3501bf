"""Curves of early learning, against naive queues; the fits are tested in tests/ops."""

import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_method import FakeMethod

from sfseg.callbacks.early_learning import EarlyLearning, History, right_and_union
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.metrics import ConfusionMatrix
from sfseg.types import IGNORE, Measured

CLASSES = 4
LABELS = LabelSpace("four", ("a", "b", "c", "d"), tuple((k, 0, 0) for k in range(CLASSES)))
IMAGES = 10
"""Of the target: a pass."""


class Logger:
    def __init__(self):
        self.logged = []

    def log_metrics(self, values, step):
        self.logged.append((step, values))


def trainer(length=IMAGES, logger=None):
    data = SimpleNamespace(pseudo_labels=range(length))
    return SimpleNamespace(
        datamodule=data, is_global_zero=True, world_size=1, global_step=0,
        loggers=[] if logger is None else [logger],
        strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor),
    )  # fmt: skip


def images(count=60, seed=0, absent=()):
    """Labels and predictions (count, 3, 5) that agree ever more."""
    rng = np.random.default_rng(seed)
    present = [k for k in range(CLASSES) if k not in absent]
    label = rng.choice(present, (count, 3, 5))
    guess = rng.choice(present, (count, 3, 5))
    knows = rng.random((count, 3, 5)) < np.linspace(0, 1, count)[:, None, None]
    prediction = np.where(knows, label, guess)
    label[rng.random(label.shape) < 0.1] = IGNORE
    return [torch.from_numpy(part.astype(np.uint8)) for part in (label, prediction)]


def started(early, length=IMAGES, logger=None):
    module = FakeMethod(LABELS)
    world = trainer(length, logger)
    early.on_fit_start(world, module)
    return world, module


def feed(early, label, prediction, batch_size=1, world=None, after=None, is_skipped=False):
    """Train on images; returns how many had been seen at each measurement.

    after: called after every step with the callback and what the step has measured.
    """
    world, module = world or started(early)
    times = []
    for first in range(0, len(label), batch_size):
        part = slice(first, first + batch_size)
        world.global_step += 1
        module.begin_step(is_skipped=is_skipped)
        outputs = {"prediction": prediction[part]}
        batch = {"target": {"pseudo_label": label[part]}}
        early.on_train_batch_end(world, module, outputs, batch, 0)
        if module.step.early_learning is not None:
            times.append(first + len(label[part]))
        if after is not None:
            after(early, module.step.early_learning)
    return times


def naive_iou(label, prediction, k):
    valid = label != IGNORE
    both = ((label == k) & (prediction == k) & valid).sum()
    union = (((label == k) | (prediction == k)) & valid).sum()
    return float(both) / float(union) if union else math.nan


def points(early, label):
    return [(m.passes, m.iou) for m in early.measurements if m.label == label]


@pytest.mark.parametrize(("every", "window"), [(0.5, 0.5), (0.5, 2.0), (0.2, 0.6), (1, 3.5)])
def test_iou_is_that_of_a_queue_of_images(every, window):
    label, prediction = images()
    early = EarlyLearning(every=every, window=window, curve="cubic")
    times = feed(early, label, prediction)
    step = round(every * IMAGES)
    assert times == list(range(step, 61, step))
    queue = step * round(window / every)
    for k in range(CLASSES):
        expected = []
        for end in times:
            last = slice(max(0, end - queue), end)
            expected.append((end / IMAGES, naive_iou(label[last], prediction[last], k)))
        np.testing.assert_allclose(points(early, k), expected, rtol=1e-12)
    assert [m.iteration for m in early.measurements[::CLASSES]] == times
    assert early.passes == 6.0


def test_nothing_is_learnt_from_a_skipped_step():
    label, prediction = images()
    early = EarlyLearning(0.5, 2.0)
    world = started(early)
    assert feed(early, label[:5], prediction[:5], world=world) == [5]
    before = early.state_dict()
    assert feed(early, label[5:20], prediction[5:20], world=world, is_skipped=True) == []
    assert str(early.state_dict()) == str(before)


@pytest.mark.parametrize("length", [10, 7, 64])
@pytest.mark.parametrize("every", [0.067, 0.3, 0.5])
def test_no_batch_size_makes_measurements_drift(every, length):
    label, prediction = images(120)
    times = {}
    for size in (1, 2, 3, 4):
        early = EarlyLearning(every=every, window=0.6, curve="cubic")
        times[size] = feed(early, label, prediction, size, started(early, length))
    for size, found in times.items():
        # At the end of the first step that has seen what a batch size of 1 measures after.
        expected = sorted({min(-(-t // size) * size, 120) for t in times[1]})
        assert found == expected
    number = np.arange(1, len(times[1]) + 1)
    if every * length > 1:
        # One image late where a multiple is not a binary fraction.
        late = times[1] - number * every * length
        assert late.min() > -1e-9 and late.max() <= 1


def test_times_do_not_depend_on_the_size_of_the_set():
    """A pass is a pass: twice the images, each shown once, measured at twice the steps."""
    label, prediction = images()
    early, double = (EarlyLearning(every=0.5, window=1.0, curve="cubic") for _ in range(2))
    feed(early, label, prediction)
    twice = [part.repeat_interleave(2, dim=0) for part in (label, prediction)]
    feed(double, *twice, world=started(double, 2 * IMAGES))
    for k in range(CLASSES):
        np.testing.assert_allclose(points(early, k), points(double, k))


def test_an_absent_class_has_no_iou_no_fit_and_never_slows():
    label, prediction = images(absent=(2,))
    logger = Logger()
    early = EarlyLearning(every=0.5, window=0.5, curve="cubic", threshold=1e-6)
    feed(early, label, prediction, world=started(early, logger=logger))
    mine = [m for m in early.measurements if m.label == 2]
    assert len(mine) == 12
    assert all(math.isnan(m.iou) and math.isnan(m.slowdown) and not m.has_slowed for m in mine)
    assert early.fits[2] is None and early.fits[0] is not None
    names = {name for _, values in logger.logged for name in values}
    assert "early_learning/IoU/a" in names and "early_learning/slowdown/a" in names
    assert not any(name.endswith("/c") for name in names)
    assert all(math.isfinite(v) for _, values in logger.logged for v in values.values())


@pytest.mark.parametrize("curve", ["cubic", "exponential"])
def test_times_at_which_a_class_was_absent_change_nothing(curve):
    """The curve is asked for its slope only where it was measured."""
    rising = [0.1, 0.3, 0.42, 0.5, 0.55, 0.57]
    early = EarlyLearning(curve=curve)
    started(early)
    slowdowns = []
    for gaps in ((), (0.2, 0.6), (7.0, 9.0)):
        times = [*(float(t) for t in range(1, 7)), *gaps]
        known = dict(zip(range(1, 7), rising, strict=True))
        early.histories[0] = History()
        for t in sorted(times):
            early._images = round(t * IMAGES)
            taken = early._take(0, known.get(t, math.nan), 1)
        slowdowns.append(taken.slowdown)
    assert slowdowns[0] == slowdowns[1] == slowdowns[2] > 0


@pytest.mark.parametrize("rule", ["paper", "release"])
@pytest.mark.parametrize("curve", ["cubic", "exponential"])
def test_a_flat_curve_never_slows(curve, rule):
    label = torch.full((40, 3, 5), 1, dtype=torch.uint8)
    label[:, 0] = 2
    prediction = torch.full_like(label, 1)
    early = EarlyLearning(0.2, 0.2, curve=curve, rule=rule, threshold=1e-9)
    steps = []
    feed(early, label, prediction, after=lambda e, measured: steps.append(measured))
    assert {k for m in early.measurements if (k := m.iou) == k} == {0.0, 2 / 3}
    assert not any(m.has_slowed for m in early.measurements)
    assert {step for step in steps if step is not None} == {Measured(frozenset())}


def test_fewer_than_four_points_never_slow():
    label, prediction = images(80)
    early = EarlyLearning(0.5, 0.5, curve="cubic", threshold=1e-9)
    slowed = []
    feed(early, label, prediction, after=lambda e, m: slowed.append(m.slowed if m else ()))
    first = next(k for k, classes in enumerate(slowed, start=1) if classes)
    assert first == 20
    assert all(math.isnan(m.slowdown) for m in early.measurements[: 3 * CLASSES])
    assert all(not classes or k % 5 == 0 for k, classes in enumerate(slowed, start=1))


def test_a_restart_begins_a_curve_that_needs_four_points_again():
    label, prediction = images(80)
    early = EarlyLearning(0.5, 0.5, curve="cubic", threshold=1e-9)

    def restart(callback, measured):
        if measured is not None and callback.passes == 4.0:
            callback.restart(1)

    feed(early, label, prediction, after=restart)
    assert early.histories[1].start == 4.0
    assert early.histories[1].t == [0.5 * k for k in range(1, 9)]
    assert len(early.histories[0].t) == 16
    late = [m for m in early.measurements if m.label == 1 and 4 < m.passes < 6]
    assert len(late) == 3 and all(math.isnan(m.slowdown) for m in late)
    # Its fit is that of these points alone.
    alone = EarlyLearning(0.5, 0.5, curve="cubic", threshold=1e-9)
    feed(alone, label[40:], prediction[40:])
    assert alone.fits[1].coefficients == pytest.approx(early.fits[1].coefficients)


def test_a_measurement_that_was_due_comes_after_the_skipped_step():
    label, prediction = images()
    early, measured = EarlyLearning(0.5, 1.5), []
    world = started(early)
    for k in range(12):
        part = slice(k, k + 1)
        is_skipped = k in (4, 5)
        if feed(early, label[part], prediction[part], world=world, is_skipped=is_skipped):
            measured.append(k)
    assert measured == [6, 11]


@pytest.mark.parametrize("rule", ["paper", "release"])
@pytest.mark.parametrize("stop", [None, 43, 46])
@pytest.mark.parametrize("restarts", [{1: 40}, {1: 42, 2: 44}, {1: 31, 2: 42}])
def test_a_restart_empties_the_window_of_its_class(restarts, stop, rule, tmp_path):
    """Every point of a curve is of the visits since it began, in the middle of a block too."""
    label, prediction = images(80)
    # As if the labels were corrected then: what comes later is right, what came before never.
    for k, start in restarts.items():
        label[start:][prediction[start:] == k] = k
        label[:start][label[:start] == k] = 0
    early = EarlyLearning(0.5, 1.5, curve="cubic", rule=rule)

    def restart(callback, _):
        for k, start in restarts.items():
            if callback.passes * IMAGES == start:
                callback.restart(k)

    world = started(early)
    feed(early, label[:stop], prediction[:stop], world=world, after=restart)
    if stop is not None:
        torch.save(early.state_dict(), tmp_path / "state")
        early = EarlyLearning(0.5, 1.5, curve="cubic", rule=rule)
        early.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        world = started(early)
        feed(early, label[stop:], prediction[stop:], world=world, after=restart)
    for k in range(CLASSES):
        start = restarts.get(k, 0)
        curve = [(passes, iou) for passes, iou in points(early, k) if passes * IMAGES > start]
        expected = []
        for passes, _ in curve:
            end = round(passes * IMAGES)
            seen = slice(max(start, end - 15), end)
            expected.append((passes, naive_iou(label[seen], prediction[seen], k)))
        np.testing.assert_allclose(curve, expected, rtol=1e-12)
        assert [iou for _, iou in curve][-len(early.histories[k].iou) :] == early.histories[k].iou


def test_a_state_of_an_earlier_version_goes_on():
    label, prediction = images()
    early = EarlyLearning(0.5, 1.5, curve="cubic")
    feed(early, label[:23], prediction[:23])
    state = early.state_dict()
    del state["before"]
    state["blocks"] = [
        [end, confusion(label[end - 5 : end], prediction[end - 5 : end])]
        for end, _ in state["blocks"]
    ]
    other, whole = (EarlyLearning(0.5, 1.5, curve="cubic") for _ in range(2))
    other.load_state_dict(state)
    feed(other, label[23:], prediction[23:])
    feed(whole, label, prediction)
    np.testing.assert_equal(*([asdict(h) for h in e.histories] for e in (other, whole)))


def confusion(label, prediction):
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(prediction, label)
    return matrix.counts


def test_the_release_measures_full_windows_and_decides_from_the_second_pass_on():
    label, prediction = images()
    paper, release = (EarlyLearning(0.1, 0.3, rule=r, threshold=1e-9) for r in ("paper", "release"))
    feed(paper, label, prediction)
    slowed = []
    feed(release, label, prediction, after=lambda _, m: slowed.append(m.slowed if m else None))
    assert slowed[:3] == [None, None, frozenset()] and None not in slowed[3:]
    # Two measurements of a window that is not full yet are left out, and none else.
    np.testing.assert_equal(
        [(m.passes, m.iou) for m in release.measurements],
        [(m.passes, m.iou) for m in paper.measurements][2 * CLASSES :],
    )
    first = [m for m in release.measurements if m.passes <= 1]
    assert any(1e-9 < m.slowdown < 1 for m in first) and not any(m.has_slowed for m in first)
    assert not any(slowed[:10]) and slowed[10]


@pytest.mark.parametrize("window", [0.336, 0.335])
def test_a_window_is_full_to_the_nearest_measurement(window):
    """The published code's 1,000 crops, measured every 200, are five of 0.067 passes."""
    label, prediction = images(120)
    early = EarlyLearning(0.067, window, rule="release")
    assert feed(early, label, prediction, world=started(early, length=300)) == [101]


@pytest.mark.parametrize(("rule", "expected"), [("paper", False), ("release", True)])
def test_where_a_curve_begins_anew(rule, expected):
    assert EarlyLearning(rule=rule).restarts_at_opening == expected


@pytest.mark.parametrize("stop", [0, 1, 23, 25, 59])
def test_a_restored_run_measures_as_an_uninterrupted_one(stop, tmp_path):
    label, prediction = images(80)
    whole, first, second = (EarlyLearning(0.5, 1.5, curve="cubic", threshold=0.5) for _ in range(3))
    feed(whole, label, prediction)
    world = started(first)
    steps = []
    feed(first, label[:stop], prediction[:stop], world=world)
    torch.save(first.state_dict(), tmp_path / "state")
    feed(first, label[stop:], prediction[stop:], world=world, after=lambda _, m: steps.append(m))
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    world, module = started(second)
    module.iteration = stop
    again = []
    world = (world, module)
    feed(second, label[stop:], prediction[stop:], world=world, after=lambda _, m: again.append(m))
    assert again == steps and any(again)
    for other in (first, second):
        for kind in ("measurements", "histories"):
            np.testing.assert_equal(
                *([asdict(m) for m in getattr(e, kind)] for e in (other, whole))
            )
        assert torch.equal(other.block.counts, whole.block.counts)


def test_a_state_is_not_changed_by_what_follows():
    label, prediction = images()
    early = EarlyLearning(0.5, 1.5, curve="cubic")
    world = started(early)
    feed(early, label[:23], prediction[:23], world=world)
    state = early.state_dict()
    kept = torch.tensor([*state["block"].flatten(), *state["blocks"][0][1].flatten()])
    feed(early, label[23:], prediction[23:], world=world)
    again = torch.tensor([*state["block"].flatten(), *state["blocks"][0][1].flatten()])
    assert torch.equal(kept, again)
    assert len(state["histories"][0]["t"]) == 4 and len(state["blocks"]) == 3


def test_only_the_first_process_goes_on_with_a_block():
    label, prediction = images()
    early = EarlyLearning(0.5, 1.5, curve="cubic")
    feed(early, label[:3], prediction[:3])
    counts = []
    for is_first in (True, False):
        other = EarlyLearning(0.5, 1.5, curve="cubic")
        other.load_state_dict(early.state_dict())
        world = trainer()
        world.is_global_zero = is_first
        other.on_fit_start(world, started(early)[1])
        counts.append(int(other.block.counts.sum()))
    assert counts == [int((label[:3] != IGNORE).sum()), 0]


@pytest.mark.parametrize("data", [None, SimpleNamespace(), SimpleNamespace(pseudo_labels=None)])
def test_needs_pseudo_labels(data):
    world = trainer()
    world.datamodule = data
    with pytest.raises(ConfigError, match=r"trains on pseudo-labels, got SimpleNamespace; remove"):
        EarlyLearning().on_fit_start(world, SimpleNamespace())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every must be in \(0, window=0.336\] passes, got 0"),
        ({"every": 0.5}, r"every must be in \(0, window=0.336\] passes, got 0.5"),
        ({"every": math.nan}, "every must be in"),
        ({"threshold": 0}, r"threshold must be in \(0, 1\], got 0"),
        ({"threshold": 1.1}, r"threshold must be in \(0, 1\], got 1.1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyLearning(**options)


def test_pixels_of_a_class_by_hand():
    counts = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert right_and_union(counts).tolist() == [[3, 4, 0], [6, 7, 0]]
