"""The picture and the table of what UPLR's labels keep, against counts by hand."""

import csv
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from recorder import Recorder

from sfseg.callbacks.certainty_report import COLUMNS, CertaintyReport, count_kept, draw
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.ops.two_gaussians import BINS, certain_below, fit_modes
from sfseg.report.plots import CURVE, FIT, MOMENT, SPAN
from sfseg.types import IGNORE

PSEUDO = np.array([[0, 0, 1], [1, IGNORE, 18]], np.uint8)
TRUE = np.array([[0, 1, 1], [IGNORE, 1, 0]], np.uint8)


class Store(list):
    def read(self, index):
        return SimpleNamespace(label=self[index])


class Data:
    """One image twice, the second without a true label."""

    def __init__(self):
        self.pseudo_labels = Store([PSEUDO, PSEUDO])

    def true_label(self, index):
        return TRUE if index == 0 else None


def labelling():
    rng = torch.Generator().manual_seed(0)
    histogram = torch.zeros(19, BINS, dtype=torch.int64)
    for k in (0, 1, 18):
        sure = (torch.randn(3000, generator=rng) * 0.03 + 0.1).clamp(0, 0.999)
        other = (torch.randn(2000, generator=rng) * 0.1 + 0.6).clamp(0, 0.999)
        values = (torch.cat([sure, other]) * BINS).long()
        histogram[k] = torch.bincount(values, minlength=BINS)
    modes = fit_modes(histogram)
    return SimpleNamespace(
        number=1, histogram=histogram, modes=modes, threshold=certain_below(modes)
    )


def reported(folder, module, callback=None, loggers=()):
    callback = callback or CertaintyReport(str(folder))
    trainer = SimpleNamespace(
        is_global_zero=True, datamodule=Data(), loggers=list(loggers), global_step=3
    )
    callback.on_train_batch_start(trainer, module, None, 0)
    return callback


def method(made):
    names = ("scores", "source_scores", "eval_domains", "protocol", "stage", "step", "iteration",
             "shared", "inference", "scales", "starts_as_source_model", "undo_step")  # fmt: skip
    return SimpleNamespace(labels=CITYSCAPES, labelling=made, **dict.fromkeys(names))


def test_counts_are_those_by_hand():
    kept = count_kept(Data(), CITYSCAPES, measure=True)
    for part, expected in (
        (kept.labels, (4, 4, 2)),
        (kept.known, (2, 1, 1)),
        (kept.right, (1, 1, 0)),
    ):
        assert tuple(part[[0, 1, 18]]) == expected and part.sum() == sum(expected)
    unmeasured = count_kept(Data(), CITYSCAPES, measure=False)
    assert unmeasured.labels.sum() == 10 and not unmeasured.known.any()


def test_a_round_is_drawn_once_with_a_table(tmp_path):
    made = labelling()
    module = method(made)
    callback = reported(tmp_path, module)
    picture = cv2.imread(str(tmp_path / "round_1.png"))[..., ::-1]
    assert (
        picture.shape == draw(made, count_kept(Data(), CITYSCAPES, measure=True), CITYSCAPES).shape
    )
    for colour in (CURVE, FIT, MOMENT, SPAN):
        assert (picture == colour).all(axis=2).any()
    with (tmp_path / "round_1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CITYSCAPES.classes) and set(rows[0]) == set(
        COLUMNS
    )
    road = rows[0]
    assert (road["pixels"], road["kept"], road["known"], road["right"]) == ("5000", "4", "2", "1")
    assert float(road["mean_certain"]) == pytest.approx(0.1, abs=0.01)
    assert 0.1 < float(road["threshold"]) < 0.6 and float(road["right_share"]) == 0.5
    assert rows[5]["pixels"] == "0" and rows[5]["kept_share"] == ""
    (tmp_path / "round_1.png").unlink()
    reported(tmp_path, module, callback)
    assert not (tmp_path / "round_1.png").exists()


def test_wandb_gets_picture_and_table_of_plain_values(tmp_path):
    logger = Recorder()
    reported(tmp_path, method(labelling()), loggers=[logger])
    ((key, image),) = logger.images
    assert key == "certainty" and image.dtype == np.uint8
    ((key, columns, rows),) = logger.tables
    assert key == "certainty" and columns == list(COLUMNS) and len(rows) == 19
    assert {type(cell) for row in rows for cell in row} <= {str, int, float, type(None)}


def test_a_method_without_such_labels_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a method that labels by certainty"):
        CertaintyReport(str(tmp_path)).on_fit_start(SimpleNamespace(), SimpleNamespace())
    reported(tmp_path, method(None))
    assert not list(tmp_path.iterdir())
