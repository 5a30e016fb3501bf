import csv
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from fake_method import FakeMethod
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from recorder import Recorder

from sfseg.callbacks.base import TRAINED
from sfseg.callbacks.early_learning import EarlyLearning, Measurement
from sfseg.callbacks.early_learning_report import (
    CORRECTED,
    EarlyLearningReport,
    correction_rows,
    draw,
    measurement_rows,
    split,
    words,
)  # fmt: skip
from sfseg.callbacks.label_correction import LabelCorrection
from sfseg.callbacks.openings import Opening
from sfseg.callbacks.order import ordered
from sfseg.errors import ConfigError, DataError
from sfseg.labels import CITYSCAPES, LabelSpace
from sfseg.report.plots import AXES, CELL, CURVE, FIT, HEADER, MOMENT, PAD, SPAN

LABELS = LabelSpace("two", ("road", "car"), ((255, 255, 255), (0, 0, 142)))
CUBIC = (0.1, -0.4, 0.6, 0.2)
"""Coefficients of a curve that a cubic fit finds again."""


def measured(passes, iou, label=0, slowed=(), slowdown=math.nan):
    return [
        Measurement(round(100 * p), p, label, value, slowdown, p in slowed)
        for p, value in zip(passes, iou, strict=True)
    ]


def cubic(passes, start=0.0):
    return [float(np.polyval(CUBIC, p - start)) for p in passes]


TIMES = [0.25 * k for k in range(1, 9)]  # to 2 passes; road slows at 1, is corrected until 1.5
ROAD = measured(TIMES, [*cubic(TIMES[:4]), 0.9, 0.95, 0.3, 0.4], slowed=(1.0, 1.25), slowdown=0.97)
CAR = measured(TIMES, [0.5, math.nan] * 4, label=1)
MEASUREMENTS = sorted(ROAD + CAR, key=lambda m: (m.passes, m.label))
OPENING = Opening(0, 100, 1.0, 1.5, changed=12345, known=200, right_before=68, right_after=122)


def fake_trainer(measurements, openings=None, loggers=(), step=7, **state):
    early = EarlyLearning(curve="cubic", threshold=0.9)
    early.measurements = list(measurements)
    callbacks = [early]
    if openings is not None:
        callbacks.append(LabelCorrection())
        callbacks[1].openings = list(openings)
    return SimpleNamespace(
        callbacks=callbacks, loggers=list(loggers), global_step=step,
        is_global_zero=state.get("first", True), sanity_checking=state.get("sanity", False),
        state=SimpleNamespace(fn=state.get("fn", TrainerFn.FITTING)),
    )  # fmt: skip


def report(folder, trainer, hook="on_train_end", labels=LABELS):
    callback = EarlyLearningReport(str(folder))
    ordered([*trainer.callbacks, callback])
    module = FakeMethod(labels)
    callback.on_fit_start(trainer, module)
    getattr(callback, hook)(trainer, module)
    return callback


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pixel(x, y, last, cell=(0, 0), columns=2):
    """Place in the picture of a time and an IoU, by a formula of its own."""
    top, left, height, width = AXES
    row = top + PAD + (1 - y) * (height - 1 - 2 * PAD) + HEADER + cell[0] * CELL[0]
    column = left + PAD + x / last * (width - 1 - 2 * PAD) + cell[1] * CELL[1]
    return round(row), round(column)


def test_curves_begin_anew_where_a_correction_ended():
    found = split(MEASUREMENTS, [OPENING], curve="cubic")
    assert list(found) == [0, 1]
    before, after = found[0]
    assert (before.start, after.start) == (0.0, 1.5)
    # The measurement of the step that closes is of the labels before it.
    assert [m.passes for m in before.points] == TIMES[:6]
    assert [m.passes for m in after.points] == TIMES[6:]
    assert before.num_fitted == 4  # up to the first moment at which it had slowed
    np.testing.assert_allclose(before.fit.coefficients, CUBIC, atol=1e-9)
    assert after.num_fitted == 2 and after.fit is None
    (whole,) = found[1]
    assert whole.points == tuple(CAR)


def test_fits_take_times_since_the_correction():
    passes = [2.0 + 0.25 * k for k in range(1, 8)]
    points = measured([1.0, *passes], [0.5, *cubic(passes, start=2.0)])
    _, segment = split(points, [Opening(0, 1, 1.0, 2.0)], curve="cubic")[0]
    np.testing.assert_allclose(segment.fit.coefficients, CUBIC, atol=1e-9)
    np.testing.assert_allclose(segment.value(passes), cubic(passes, start=2.0))


def test_by_the_release_curves_begin_anew_where_a_correction_began():
    before, after = split(MEASUREMENTS, [OPENING], curve="cubic", at_opening=True)[0]
    assert (before.start, after.start) == (0.0, 1.0)
    assert [m.passes for m in before.points] == TIMES[:4]
    assert [m.passes for m in after.points] == TIMES[4:]
    # While its class is open, a curve may have slowed, and nothing ends there.
    assert (before.num_fitted, after.num_fitted) == (4, 4)


def test_an_open_class_has_one_curve():
    (segment,) = split(ROAD, [Opening(0, 100, 1.0)], curve="cubic")[0]
    assert segment.points == tuple(ROAD) and segment.num_fitted == 4


def test_measurements_become_rows(tmp_path):
    report(tmp_path, fake_trainer(MEASUREMENTS, [OPENING]))
    rows = read(tmp_path / "early_learning.csv")
    assert list(rows[0]) == [
        "iteration", "passes", "class", "iou", "slowdown", "fitted", "has_slowed", "is_open",
    ]  # fmt: skip
    assert [row["class"] for row in rows] == ["road", "car"] * 8
    assert [float(row["passes"]) for row in rows[::2]] == TIMES
    assert [int(row["iteration"]) for row in rows[1::2]] == [25, 50, 75, 100, 125, 150, 175, 200]
    road, car = rows[::2], rows[1::2]
    # After it has slowed, the curve that said so goes on: it was found exactly.
    np.testing.assert_allclose(
        [float(row["fitted"]) for row in road[:6]], cubic(TIMES[:6]), atol=1e-6
    )
    assert [row["fitted"] for row in road[6:]] == ["", ""]
    assert [row["has_slowed"] for row in road] == [str(t in (1.0, 1.25)) for t in TIMES]
    assert [row["is_open"] for row in road] == [str(t in (1.25, 1.5)) for t in TIMES]
    assert [float(row["iou"]) for row in road[4:]] == [0.9, 0.95, 0.3, 0.4]
    assert {row["slowdown"] for row in road} == {"0.97"}
    assert [row["iou"] for row in car] == ["0.5", ""] * 4
    assert {(row["slowdown"], row["is_open"]) for row in car} == {("", "False")}


def test_openings_become_rows(tmp_path):
    openings = [OPENING, Opening(1, 150, 1.5, None, changed=9, refused=7)]
    report(tmp_path, fake_trainer(MEASUREMENTS, openings))
    text = (tmp_path / "label_correction.csv").read_text()
    assert text.splitlines() == [
        "class,iteration,passes,closed,changed,refused,known,right_before,right_after,"
        "right_before_share,right_after_share",
        "road,100,1,1.5,12345,0,200,68,122,0.34,0.61",
        "car,150,1.5,,9,7,0,0,0,,",
    ]


def test_words_say_what_was_corrected():
    twice = [OPENING, Opening(0, 300, 3.0, None, changed=5, known=200, right_before=32)]
    assert words(ROAD, [OPENING]) == ("slowdown 0.97", "12,345 px changed, right 34% -> 61%")
    assert words(ROAD, twice)[1] == "12,350 px changed, right 25% -> 30%"
    assert words(ROAD, [Opening(0, 1, 1.0, changed=1000)])[1] == "1,000 px changed"
    assert words(CAR, []) == ("no slowdown yet", "not corrected")
    assert words(measured([1.0], [math.nan]), [])[0] == "no pixels so far"


def test_the_picture_shows_curve_fit_and_correction(tmp_path):
    report(tmp_path, fake_trainer(MEASUREMENTS, [OPENING]))
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "early_learning.png")), cv2.COLOR_BGR2RGB)
    assert picture.shape == (HEADER + CELL[0], 2 * CELL[1], 3)
    for x, y in [(1.25, 0.9), (1.75, 0.3), (2.0, 0.4)]:
        assert tuple(picture[pixel(x, y, 2.0)]) == CURVE
    for x in (0.25, 0.75, 1.25, 1.75):
        assert tuple(picture[pixel(x, 0.5, 2.0, cell=(0, 1))]) == CURVE
    assert tuple(picture[pixel(1.0, 0.1, 2.0)]) == MOMENT
    # The shade between grid lines, to the end of the correction.
    for x, expected in [(0.95, False), (1.05, True), (1.47, True), (1.53, False)]:
        assert (tuple(picture[pixel(x, 0.1, 2.0)]) == SPAN) == expected
    road, car = picture[HEADER:, : CELL[1]], picture[HEADER:, CELL[1] :]
    found = np.argwhere((road == FIT).all(-1))
    start, end = pixel(0.25, 0, 2.0)[1], pixel(1.0, 0, 2.0)[1]
    assert len(found) > 20 and start - 1 <= found[:, 1].min() and found[:, 1].max() <= end + 1
    for row, column in found:
        x = (column - AXES[1] - PAD) / (AXES[3] - 1 - 2 * PAD) * 2.0
        at = pixel(x, float(np.polyval(CUBIC, x)), 2.0)[0] - HEADER
        assert abs(row - at) <= 3
    assert not any((car == colour).all(-1).any() for colour in (FIT, MOMENT, SPAN))


def test_every_class_has_its_plot():
    points = [m for k in range(19) for m in measured([0.5, 1.0], [0.2, 0.04 * k], label=k)]
    segments = split(points, [], curve="exponential")
    picture = draw(segments, [], CITYSCAPES, title="")
    assert picture.shape == (HEADER + 4 * CELL[0], 5 * CELL[1], 3)
    for k, colour in enumerate(CITYSCAPES.palette):
        cell = divmod(k, 5)
        square = HEADER + cell[0] * CELL[0] + 12, cell[1] * CELL[1] + AXES[1] + 3
        assert tuple(picture[square]) == colour
        assert tuple(picture[pixel(1.0, 0.04 * k, 1.0, cell)]) == CURVE


def test_without_label_correction_nothing_is_open(tmp_path):
    report(tmp_path, fake_trainer(MEASUREMENTS))
    assert {row["is_open"] for row in read(tmp_path / "early_learning.csv")} == {"False"}
    assert len((tmp_path / "label_correction.csv").read_text().splitlines()) == 1
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "early_learning.png")), cv2.COLOR_BGR2RGB)
    assert not (picture[HEADER:] == MOMENT).all(-1).any()


@pytest.mark.parametrize(
    ("hook", "measurements", "state"),
    [
        ("on_train_end", [], {}),
        ("on_train_end", MEASUREMENTS, {"first": False}),
        ("on_validation_end", MEASUREMENTS, {"sanity": True}),
        ("on_validation_end", MEASUREMENTS, {"fn": TrainerFn.VALIDATING}),
    ],
)
def test_writes_nothing(tmp_path, hook, measurements, state):
    report(tmp_path / "run", fake_trainer(measurements, [], **state), hook)
    assert not (tmp_path / "run").exists()


def test_wandb_gets_picture_and_table_once_a_step(tmp_path):
    logger = Recorder()
    trainer = fake_trainer(MEASUREMENTS, [OPENING], [logger])
    callback = report(tmp_path, trainer, "on_validation_end")
    module = FakeMethod(LABELS)
    callback.on_train_end(trainer, module)
    ((key, image),) = logger.images
    assert key == "early_learning" and image.dtype == np.uint8
    assert image.shape == (HEADER + CELL[0], 2 * CELL[1], 3)
    row = ["road", 100, 1.0, 1.5, 12345, 0, 200, 68, 122, 0.34, 0.61]
    assert logger.tables == [("label_correction", list(CORRECTED), [row])]
    trainer.global_step += 1
    callback.on_train_end(trainer, module)
    assert len(logger.images) == 2


def test_rows_are_plain_values():
    segments = split(MEASUREMENTS, [OPENING], curve="cubic")
    rows = measurement_rows(segments, [OPENING], LABELS)
    rows += correction_rows([Opening(1, 1, 0.5)], LABELS)
    assert {type(cell) for row in rows for cell in row} <= {str, int, float, bool, type(None)}


def test_needs_early_learning():
    with pytest.raises(ConfigError, match="EarlyLearningReport needs EarlyLearning and was not"):
        EarlyLearningReport("x").on_fit_start(fake_trainer([]), FakeMethod(LABELS))


def test_a_folder_that_takes_nothing_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"early_learning.png cannot be written"):
        report(tmp_path / "file", fake_trainer(MEASUREMENTS))


class Target(LightningDataModule):
    """Eight images of the target, two a step."""

    pseudo_labels = range(8)

    def train_dataloader(self):
        label = torch.randint(2, (8, 4, 4), generator=torch.Generator().manual_seed(0))
        images = [{"target": {"pseudo_label": part}} for part in label.to(torch.uint8)]
        return torch.utils.data.DataLoader(images, batch_size=2)

    def val_dataloader(self):
        return torch.utils.data.DataLoader([torch.zeros(1)])


class Guesses(LightningModule):
    """Trains nothing, and predicts by chance."""

    def __init__(self):
        super().__init__()
        read = vars(FakeMethod(LABELS))
        for name in TRAINED:
            setattr(self, name, read[name])
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.chance = torch.Generator().manual_seed(1)

    def training_step(self, batch, batch_idx):
        shape = batch["target"]["pseudo_label"].shape
        prediction = torch.randint(2, shape, generator=self.chance).to(torch.uint8)
        return {"loss": self.weight.square(), "prediction": prediction}

    def validation_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
def test_training_writes_at_evaluations_and_at_the_end(tmp_path):
    seen = []

    class Seen(EarlyLearningReport):
        def _write(self, trainer, labels):
            super()._write(trainer, labels)
            path = self.folder / "early_learning.csv"
            seen.append((trainer.global_step, len(read(path)) if path.exists() else 0))

    early = EarlyLearning(every=0.25, window=0.5, curve="cubic")
    logger = TensorBoardLogger(tmp_path, name="", version="board")
    trainer = Trainer(
        accelerator="cpu", max_steps=10, val_check_interval=4, check_val_every_n_epoch=None,
        callbacks=ordered([Seen(str(tmp_path)), early]), logger=logger, log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Guesses(), datamodule=Target())
    # Two classes, measured in every step.
    assert seen == [(4, 8), (8, 16), (10, 20)]
    rows = read(tmp_path / "early_learning.csv")
    assert [float(row["passes"]) for row in rows[::2]] == [0.25 * k for k in range(1, 11)]
    np.testing.assert_allclose(
        [float(row["iou"]) for row in rows], [m.iou for m in early.measurements], rtol=1e-5
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    images = events.Images("early_learning")
    assert [image.step for image in images][-1] == 10
    assert (images[-1].height, images[-1].width) == (HEADER + CELL[0], 2 * CELL[1])
