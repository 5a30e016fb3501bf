"""Scores without labels, of a model whose predictions are known."""

import csv
import logging
import math
import random
from dataclasses import replace

import pytest
import sinking
import torch
from lightning.pytorch.loggers import CSVLogger
from sinking import Images, method, predicted, trainer

from sfseg.callbacks.label_free_score import SCORES, LabelFreeScore
from sfseg.errors import DataError
from sfseg.ops.label_free import GAMMA, soft_neighbourhood_density

pytestmark = [pytest.mark.filterwarnings(text) for text in sinking.IGNORED]
SINKING = [1.0, 2.0, 4.0, 5.5, 7.0]
"""Of the second view, then of the first, sky and then car become road."""


def run(folder, path, *, steps=None, data=None, needs=("target", "source_model"), **settings):
    score = LabelFreeScore(str(folder), **settings)
    model = method(path, needs)
    trainer([score], steps or len(path)).fit(model, datamodule=data or Images())
    return score, model


def rows(folder):
    return list(csv.DictReader((folder / "label_free.csv").read_text().splitlines()))


def naive(bias, columns=range(4)):
    """Agreement, mean IoU of both views over the three classes, and entropy of some columns."""
    pairs = list(zip(predicted(bias), predicted(bias, GAMMA), strict=True))
    same = sum(a == b for a, b in pairs) / len(pairs)
    ious = []
    for k in range(3):
        either = sum(k in pair for pair in pairs)
        ious.append(sum(pair == (k, k) for pair in pairs) / either if either else 0.0)
    entropy = 0.0
    for red, green, blue in (sinking.COLOURS[k] for k in columns):
        logits = [10 * round(255 * c) / 255 for c in (red, green, blue)]
        weights = [math.exp(logits[0] + bias), math.exp(logits[1]), math.exp(logits[2])]
        shares = [weight / sum(weights) for weight in weights]
        entropy -= sum(p * math.log(p) for p in shares) / math.log(3) / len(columns)
    return same, sum(ious) / 3, entropy


def test_every_score_is_that_of_the_definition(tmp_path):
    run(tmp_path, SINKING)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [row["iteration"] for row in found] == list("012345")
    for row, bias in zip(found, [0.0, *SINKING], strict=True):
        same, combined, entropy = naive(bias)
        assert float(row["agreement"]) == pytest.approx(same)
        assert float(row["combined"]) == pytest.approx(combined, abs=1e-6)
        assert float(row["entropy"]) == pytest.approx(entropy, rel=1e-4)
        assert int(row["classes"]) == len(set(predicted(bias)))
        miou = sinking.scores(bias).miou["mIoU"]
        assert float(row["target_mIoU"]) == pytest.approx(miou, rel=1e-5)
    assert float(found[-1]["agreement"]) == 1 and float(found[-1]["combined"]) < 0.5
    assert len({row["combined"] for row in found}) > 3


LEAN = [0.0, 7.0, 0.0, 0.0]
"""Of ``road``, column by column: what is seen depends on where it is."""


class Leaning(sinking.Channels):
    def forward(self, image):
        logits = super().forward(image)
        return logits + torch.tensor(LEAN) * torch.tensor([1.0, 0, 0])[:, None, None]


def test_a_mirrored_view_is_mirrored_back_and_the_plain_one_is_not_averaged_with_it(tmp_path):
    score, model = LabelFreeScore(str(tmp_path)), method([0.0])
    model.network = Leaning()
    assert model.inference.flip
    trainer([score], 1).fit(model, datamodule=Images())
    one = [predicted(LEAN[k])[k] for k in range(4)]
    other = [predicted(LEAN[3 - k], GAMMA)[k] for k in range(4)]
    assert one == [0, 0, 2, 2] and other == [0, 1, 0, 2]
    entropies = [naive(LEAN[k], columns=[k])[2] for k in range(4)]
    found = score.measurements[0].scores
    assert found["agreement"] == pytest.approx(0.5)
    assert found["entropy"] == pytest.approx(sum(entropies) / 4, rel=1e-5)


def test_density_is_that_of_the_pixels(tmp_path):
    run(tmp_path, [4.0], pixels=99)
    image = sinking.batch()["image"][0].flatten(1).T / 255
    expected = soft_neighbourhood_density((10 * image + torch.tensor([4.0, 0, 0])).softmax(1))
    assert float(rows(tmp_path)[-1]["snd"]) == pytest.approx(float(expected), rel=1e-4)


def test_each_class_that_goes_is_told_once_and_again_when_it_goes_again(tmp_path, caplog):
    path = [4.0, 7.0, 8.0, 0.0, 7.0]
    with caplog.at_level(logging.WARNING):
        run(tmp_path, path)
    told = [r.getMessage() for r in caplog.records if "classes that the model" in r.getMessage()]
    assert len(told) == 3
    assert (
        told[0].startswith("of 3 classes")
        and "2 are left at step 1; newly vanished: sky." in told[0]
    )
    assert told[1].startswith("collapse: of 3 classes")
    assert "1 are left at step 2; vanished: car, sky." in told[1]
    assert told[2].startswith("collapse") and "at step 5" in told[2]
    found = rows(tmp_path)
    assert [row["has_collapsed"] for row in found] == [
        "False", "False", "True", "True", "False", "True",
    ]  # fmt: skip
    assert [row["vanished"] for row in found] == ["", "sky", "car;sky", "car;sky", "", "car;sky"]


def test_names_of_classes_are_told_apart_in_their_cell(tmp_path):
    score, model = (
        LabelFreeScore(str(tmp_path)),
        method([4.0, 7.0, 8.0], ("target", "source_model")),
    )
    model.labels = replace(model.labels, classes=("road", 'the "car"', "sky; clouds, sun"))
    trainer([score], 3).fit(model, datamodule=Images())
    cell = rows(tmp_path)[2]["vanished"]
    assert next(csv.reader([cell], delimiter=";")) == ['the "car"', "sky; clouds, sun"]


def test_training_is_not_disturbed(tmp_path):
    # The network of this model draws from torch's generator, and one part of it never trains.
    score, model = run(tmp_path, [0.0])
    model.train()
    model.network.frozen.eval()
    score.measurements.clear()
    before = (random.getstate(), torch.get_rng_state())
    score.on_train_start(model.trainer, model)
    after = (random.getstate(), torch.get_rng_state())
    assert len(score.measurements) == 1
    assert before[0] == after[0] and torch.equal(before[1], after[1])
    assert model.network.training and not model.network.frozen.training
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_images_are_evenly_spread_and_the_same_at_every_step(tmp_path):
    data = Images(count=11)
    run(tmp_path, SINKING, data=data, images=3)
    assert data.read == [0, 5, 10] * 6
    few = Images(count=2)
    run(tmp_path, [0.0], data=few, images=3)
    assert few.read == [0, 1] * 2


def test_images_that_cannot_be_read_are_left_out_once(tmp_path, caplog):
    data = Images(count=3, broken=[1])
    with caplog.at_level(logging.WARNING):
        run(tmp_path, [0.0], data=data)
    assert data.read == [0, 2] * 2
    assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()] == [
        "label-free score: an image is left out from now on: image 1 is broken"
    ]
    with pytest.raises(DataError, match="none of the chosen target images"):
        run(tmp_path, [0.0], data=Images(count=1, broken=[0]))


def test_scores_are_logged_beside_the_evaluation(tmp_path):
    model, score = method(SINKING), LabelFreeScore(str(tmp_path))
    world = trainer([score], 5)
    logger = CSVLogger(str(tmp_path), name="", version="")
    world.loggers = [logger]
    world.fit(model, datamodule=Images())
    logger.save()
    logged = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    scored = [row for row in logged if row["label_free/combined"]]
    for row, kept in zip(scored, rows(tmp_path), strict=True):
        for name in SCORES:
            assert float(row[f"label_free/{name}"]) == pytest.approx(float(kept[name]), rel=1e-4)
    assert [bool(row["val/target/mIoU"]) for row in scored] == [False, *[True] * 5]


def test_a_run_that_goes_on_writes_the_same(tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    path = [4.0, 7.0, 8.0, 0.0, 7.0]
    run(whole, path)
    first, score = method(path), LabelFreeScore(str(half))
    world = trainer([score], 2)
    world.fit(first, datamodule=Images())
    world.save_checkpoint(tmp_path / "cut.ckpt")
    again = LabelFreeScore(str(half))
    trainer([again], 5).fit(
        method(path), datamodule=Images(), ckpt_path=tmp_path / "cut.ckpt", weights_only=True
    )
    assert (half / "label_free.csv").read_bytes() == (whole / "label_free.csv").read_bytes()


def test_the_last_weights_are_scored_where_training_does_not_end_with_an_evaluation(tmp_path):
    score, model = LabelFreeScore(str(tmp_path)), method(SINKING)
    world, data = trainer([score], 5, every=2), Images()
    world.fit(model, datamodule=data)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "2", "4"]
    world.validate(model, datamodule=data, verbose=False)
    world.validate(model, datamodule=data, verbose=False)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "2", "4", "5"]
    assert float(rows(tmp_path)[-1]["target_mIoU"]) == pytest.approx(
        sinking.scores(SINKING[-1]).miou["mIoU"], rel=1e-5
    )


def test_methods_that_do_not_adapt_leave_nothing_behind(tmp_path):
    score, _ = run(tmp_path, SINKING, needs=("source",))
    assert not score.measurements and not list(tmp_path.iterdir())


def test_without_a_source_model_every_class_may_occur(tmp_path):
    # Nothing but road at first: of a network that has learnt nothing, that says nothing.
    model, score = method([0.0], ("source", "target")), LabelFreeScore(str(tmp_path))
    torch.nn.init.constant_(model.network.bias[:1], 9.0)
    trainer([score], 1).fit(model, datamodule=Images())
    start, end = rows(tmp_path)
    assert start["vanished"] == "car;sky" and start["has_collapsed"] == "False"
    assert float(start["combined"]) == pytest.approx(1 / 3, rel=1e-5) and end["vanished"] == ""


def test_new_weights_are_not_given_the_source_models_miou(tmp_path, monkeypatch):
    monkeypatch.setattr(sinking.Sinking, "starts_as_source_model", False)
    model, score = method([0.0]), LabelFreeScore(str(tmp_path))
    torch.nn.init.constant_(model.network.bias[:1], 9.0)
    trainer([score], 1).fit(model, datamodule=Images())
    start, end = rows(tmp_path)
    assert start["target_mIoU"] == "" and float(end["target_mIoU"]) > 0
    assert start["vanished"] == "car;sky" and start["has_collapsed"] == "False"


def test_goodness_grows_with_certainty(tmp_path):
    score, _ = run(tmp_path, SINKING, score="entropy")
    by_entropy = [float(row["entropy"]) for row in rows(tmp_path)]
    assert [score.goodness(k) for k in range(6)] == pytest.approx(
        [-entropy for entropy in by_entropy], rel=1e-4
    )
    assert math.isnan(score.goodness(99))
    score.score = "combined"
    assert score.goodness(0) == score.measurements[0].scores["combined"]


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"images": 0}, "images must be at least 1, got 0; ~callbacks.label_free_score"),
        ({"pixels": 1}, "pixels must be at least 2, got 1"),
        ({"score": "miou"}, "score must be one of combined, agreement, snd, entropy, got 'miou'"),
    ],
)
def test_bad_settings_are_refused(setting, match):
    with pytest.raises(ValueError, match=match):
        LabelFreeScore("here", **setting)
