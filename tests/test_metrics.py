import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import distributed
from torchmetrics.classification import MulticlassConfusionMatrix

from sfseg.data.sampling import EvalSampler
from sfseg.labels import CITYSCAPES, LabelSpace, distinct_colour
from sfseg.metrics import MEAN, ConfusionMatrix, Scores, averaged, judged_by, mean
from sfseg.types import IGNORE


def space(num_classes, **subsets):
    return LabelSpace(
        "test",
        tuple(str(k) for k in range(num_classes)),
        tuple(distinct_colour(k) for k in range(num_classes)),
        subsets,
    )


def maps(num_classes, shape=(2, 17, 23), seed=0, void=0.2):
    """Prediction and label, right in about half of the pixels."""
    rng = np.random.default_rng(seed)
    prediction = rng.integers(num_classes, size=shape)
    label = np.where(rng.random(shape) < 0.5, prediction, rng.integers(num_classes, size=shape))
    label[rng.random(shape) < void] = IGNORE
    return byte(prediction), byte(label)


def byte(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.uint8)


def count(num_classes, *batches):
    metric = ConfusionMatrix(num_classes)
    for prediction, label in batches:
        metric.update(prediction, label)
    return metric.compute()


@pytest.mark.parametrize("num_classes", [2, 3, 11, 16, 19, 64, 65, 128, 129, 253])
def test_counts_are_those_of_torchmetrics_and_sklearn(num_classes):
    prediction, label = maps(num_classes)
    oracle = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=True)
    oracle.update(prediction.long(), label.long())
    valid = label != IGNORE
    again = confusion_matrix(label[valid], prediction[valid], labels=range(num_classes))
    counts = count(num_classes, (prediction, label))
    assert counts.dtype == torch.int64
    torch.testing.assert_close(counts, oracle.compute())
    np.testing.assert_array_equal(counts, again)


def test_every_pair_of_ids_is_counted_in_its_cell():
    pairs = list(itertools.product(range(19), range(19)))
    label, prediction = byte([p[0] for p in pairs]), byte([p[1] for p in pairs])
    torch.testing.assert_close(
        count(19, (prediction, label)), torch.ones(19, 19, dtype=torch.int64)
    )


@pytest.mark.parametrize("shape", [(), (1,), (0,), (1, 1, 1), (3, 1, 5)])
def test_any_shape(shape):
    ones = torch.ones(shape, dtype=torch.uint8)
    assert count(2, (ones, ones)).tolist() == [[0, 0], [0, ones.numel()]]


def test_batches_add_up_and_order_does_not_matter():
    first, second = maps(5, seed=1), maps(5, (3, 8, 8), seed=2)
    total = count(5, first) + count(5, second)
    assert torch.equal(count(5, first, second), total)
    assert torch.equal(count(5, second, first), total)
    flipped = tuple(part.flip(-1) for part in first)
    assert torch.equal(count(5, flipped), count(5, first))


def test_reset_starts_again():
    metric = ConfusionMatrix(5)
    metric.update(*maps(5))
    metric.reset()
    assert metric.counts.sum() == 0
    metric.update(*maps(5, seed=3))
    assert torch.equal(metric.compute(), count(5, maps(5, seed=3)))


def test_counts_are_exact_where_float32_is_not():
    metric = ConfusionMatrix(2)
    metric.counts[0, 0] = 2**24
    metric.update(byte([0]), byte([0]))
    assert metric.compute()[0, 0] == 2**24 + 1


@pytest.mark.parametrize("num_classes", [2, 3, 4, 16, 19, 64, 100, 128, 253])
@pytest.mark.parametrize("label", [0, 1, IGNORE])
def test_predictions_that_are_no_class_are_refused(num_classes, label):
    """Above all those that would be counted in another label's row."""
    stride = min(1 << (num_classes - 1).bit_length(), IGNORE)
    for stray in (num_classes, stride, 254, IGNORE):
        message = f"prediction must be class ids below {num_classes}, got {stray}"
        with pytest.raises(ValueError, match=message):
            ConfusionMatrix(num_classes).update(byte([0, stray]), byte([0, label]))


@pytest.mark.parametrize("num_classes", [2, 3, 4, 16, 19, 64, 100, 128, 253])
def test_labels_that_are_no_class_are_refused(num_classes):
    for stray in {num_classes, (num_classes + 255) // 2, 254}:
        metric = ConfusionMatrix(num_classes)
        with pytest.raises(
            ValueError, match=rf"below {num_classes} or 255 .* 2 pixels are neither"
        ):
            metric.update(byte([1, 0, 1]), byte([stray, stray, IGNORE]))
        assert metric.counts.sum() == 0


@pytest.mark.parametrize(
    ("prediction", "label"),
    [
        (torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 3, dtype=torch.uint8)),
        (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.uint8)),
        (torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 2)),
    ],
)
def test_other_shapes_and_types_are_refused(prediction, label):
    with pytest.raises(ValueError, match="uint8 of one shape, got"):
        ConfusionMatrix(3).update(prediction, label)


@pytest.mark.parametrize("num_classes", [0, 1, 254])
def test_other_numbers_of_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=rf"in \[2, 253\], got {num_classes}"):
        ConfusionMatrix(num_classes)


def test_scores_are_those_of_sklearn():
    prediction, label = maps(19)
    valid = label != IGNORE
    truth, guess = label[valid].numpy(), prediction[valid].numpy()
    scores = Scores.of(count(19, (prediction, label)), CITYSCAPES)
    iou = jaccard_score(truth, guess, labels=range(19), average=None)
    np.testing.assert_allclose(scores.iou, iou)
    recall = [(guess[truth == k] == k).mean() for k in range(19)]
    np.testing.assert_allclose(scores.accuracy, recall)
    assert scores.pixels == tuple(int((truth == k).sum()) for k in range(19))
    assert scores.pixel_accuracy == pytest.approx((truth == guess).mean())
    assert scores.mean_accuracy == pytest.approx(np.mean(recall))
    assert list(scores.miou) == ["mIoU", "mIoU16", "mIoU13"]
    for name, ids in CITYSCAPES.subsets.items():
        assert scores.miou[name] == pytest.approx(iou[list(ids)].mean())


def test_the_mean_is_over_the_set_not_over_images():
    perfect = (byte([[0, 0, 1, 1]]), byte([[0, 0, 1, 1]]))
    poor = (byte([[0, 0, 0, 0]]), byte([[1, 1, 1, 0]]))
    scores = Scores.of(count(2, perfect, poor), space(2))
    assert scores.iou == (3 / 6, 2 / 5)
    assert scores.miou["mIoU"] == pytest.approx(0.45)


def test_a_class_that_occurs_nowhere_has_no_score():
    counts = torch.tensor([[4, 0, 0, 1], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = Scores.of(counts, space(4, absent=(2,), half=(1, 2)))
    assert math.isnan(scores.iou[2]) and math.isnan(scores.accuracy[2])
    # Predicted but never labelled: wrong, and no accuracy to speak of.
    assert scores.iou[3] == 0 and math.isnan(scores.accuracy[3])
    assert scores.miou["mIoU"] == pytest.approx((4 / 5 + 1 + 0) / 3)
    assert math.isnan(scores.miou["absent"]) and scores.miou["half"] == 1
    assert scores.mean_accuracy == pytest.approx((4 / 5 + 1) / 2)


def test_void_everywhere_scores_nothing():
    label = torch.full((2, 4, 4), IGNORE, dtype=torch.uint8)
    scores = Scores.of(count(3, (torch.zeros_like(label), label)), space(3))
    assert scores.pixels == (0, 0, 0)
    assert all(math.isnan(value) for value in (*scores.iou, *scores.summary().values()))


def test_renaming_classes_permutes_scores():
    prediction, label = maps(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    renamed = [torch.where(m == IGNORE, m, byte(order)[m.long() % 5]) for m in (prediction, label)]
    before = Scores.of(count(5, (prediction, label)), space(5))
    after = Scores.of(count(5, tuple(renamed)), space(5))
    assert [after.iou[k] for k in order] == list(before.iou)
    assert after.summary() == pytest.approx(before.summary())


def test_the_mean_over_sets_counts_each_the_same():
    rng = np.random.default_rng(0)
    # Of very different sizes.
    counts = [torch.tensor(rng.integers(1, 50, (4, 4)) * n) for n in (1, 7, 1000)]
    sets = [Scores.of(c, space(4, half=(0, 1))) for c in counts]
    found = Scores.mean_of(sets)
    np.testing.assert_allclose(found.iou, np.mean([s.iou for s in sets], axis=0))
    np.testing.assert_allclose(found.accuracy, np.mean([s.accuracy for s in sets], axis=0))
    for name, value in found.summary().items():
        assert value == pytest.approx(np.mean([s.summary()[name] for s in sets]))
    assert found.pixels == tuple(int(n) for n in sum(counts).sum(dim=1))
    assert Scores.mean_of(sets[::-1]).summary() == pytest.approx(found.summary())
    assert Scores.mean_of(sets[:1]) == sets[0]


def test_the_mean_over_sets_where_a_class_or_a_score_is_missing():
    both = Scores.of(torch.tensor([[1, 1], [0, 2]]), space(2))
    one = Scores.of(torch.tensor([[4, 0], [0, 0]]), space(2))
    found = Scores.mean_of([both, one])
    assert found.iou == pytest.approx(((1 / 2 + 1) / 2, 2 / 3))
    assert found.miou["mIoU"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    nothing = Scores.of(torch.zeros(2, 2, dtype=torch.int64), space(2))
    # A mean over fewer sets would pass for one over all.
    assert all(math.isnan(v) for v in Scores.mean_of([both, nothing]).summary().values())


def test_a_run_is_judged_by_its_target_or_the_mean_over_its_sets():
    assert judged_by(("target", "source")) == "target" and not averaged(("target", "source"))
    assert judged_by(("rain", "fog", "source")) == MEAN
    assert averaged(("mean", "rain", "fog", "source")) == ("rain", "fog")


def test_summary_names():
    scores = Scores.of(torch.eye(3, dtype=torch.int64), space(3, few=(0,)))
    assert scores.summary() == {
        "mIoU": 1, "few": 1, "pixel_accuracy": 1, "mean_accuracy": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"), [([], math.nan), ([math.nan], math.nan), ([1, math.nan, 2], 1.5)]
)
def test_mean_leaves_out_what_is_undefined(values, expected):
    assert mean(values) == pytest.approx(expected, nan_ok=True)


NUM_IMAGES = 5


def _one_process(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    metric = ConfusionMatrix(5)
    for _, index in EvalSampler(NUM_IMAGES, rank=rank, world_size=2):
        metric.update(*maps(5, (1, 9, 9), seed=index))
    torch.save(metric.compute(), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_count_every_image_once(tmp_path):
    torch.multiprocessing.spawn(_one_process, (str(tmp_path),), nprocs=2)
    expected = count(5, *(maps(5, (1, 9, 9), seed=index) for index in range(NUM_IMAGES)))
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), expected)
