"""Thresholds and selection of pseudo-labels, against sorting and loops over pixels."""

import math

import numpy as np
import pytest
import torch

from sfseg.ops.selection import (
    class_balanced_label,
    confident_label,
    count_doubts,
    empty_histogram,
    top_thresholds,
    united_label,
)
from sfseg.types import IGNORE

CLASSES = 4


def predictions(seed=0, size=(2, 9, 13), sharpness=4.0):
    """Probabilities (B, K, H, W) of which the last class never wins."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(size[0], CLASSES, *size[1:], generator=rng)
    logits[:, -1] = logits.amin(dim=1) - 1
    return logits.softmax(dim=1)


def counted(confidence, label, *, num_classes):
    histogram = empty_histogram(num_classes)
    count_doubts(histogram, confidence, label)
    return histogram


def histogram_of(probability):
    confidence, label = probability.max(dim=1)
    return counted(confidence, label, num_classes=CLASSES)


def by_sorting(probability, portion):
    """The n-th largest confidence of every class, n = floor(portion * pixels); 1 without any."""
    confidence, label = (part.numpy() for part in probability.max(dim=1))
    found = np.ones(CLASSES)
    for k in range(CLASSES):
        mine = np.sort(confidence[label == k])[::-1]
        rank = math.floor(portion * len(mine))
        if rank > 0:
            found[k] = mine[rank - 1]
    return found


@pytest.mark.parametrize("sharpness", [0.3, 4.0, 40.0])
@pytest.mark.parametrize("portion", [0.003, 0.1, 0.2, 0.5, 1.0])
def test_thresholds_are_those_of_sorting(portion, sharpness):
    probability = predictions(sharpness=sharpness)
    threshold = top_thresholds(histogram_of(probability), portion).double().numpy()
    exact = by_sorting(probability, portion)
    # Below the exact one, by no more than a 4096th of what that lacks to 1.
    assert (threshold <= exact + 1e-12).all()
    assert (exact - threshold <= (1 - exact) / 4096 + 1e-7).all()
    assert threshold[-1] == 1


@pytest.mark.parametrize("portion", [0.1, 0.37, 0.9])
def test_shares_hold_where_all_is_nearly_certain(portion):
    doubt = torch.logspace(-6.5, -3, 2000, dtype=torch.float64)
    confidence = (1 - doubt).float()
    label = torch.zeros(2000, dtype=torch.uint8)
    threshold = top_thresholds(counted(confidence, label, num_classes=1), portion)
    assert float((confidence >= threshold[0]).float().mean()) == pytest.approx(portion, abs=0.02)


@pytest.mark.parametrize("level", [0.25, 0.5, 1 - 2.0**-24, 1.0])
def test_a_class_of_one_confidence_is_taken_whole(level):
    confidence = torch.full((5,), level)
    counts = counted(confidence, torch.zeros(5).int(), num_classes=2)
    threshold = top_thresholds(counts, 0.3)
    assert (confidence >= threshold[0]).all() and threshold[1] == 1


def test_a_portion_of_less_than_one_pixel_takes_certain_ones_alone():
    counts = counted(torch.tensor([0.9, 0.8]), torch.zeros(2).int(), num_classes=1)
    assert top_thresholds(counts, 0.49).item() == 1
    assert top_thresholds(counts, 0.5).item() == pytest.approx(0.9, abs=1e-3)


def test_histograms_add_up_and_leave_out_what_is_no_class():
    probability = predictions()
    confidence, label = probability.max(dim=1)
    parts = [counted(c, k, num_classes=CLASSES) for c, k in zip(confidence, label)]  # noqa: B905
    whole = histogram_of(probability)
    assert torch.equal(sum(parts), whole)
    assert torch.equal(whole.sum(dim=1), torch.bincount(label.flatten(), minlength=CLASSES))
    void = label.to(torch.uint8)
    void[0] = IGNORE
    assert torch.equal(counted(confidence, void, num_classes=CLASSES), parts[1])
    broken = counted(torch.tensor([torch.nan, 0.0, 1.0]), torch.zeros(3).int(),
                             num_classes=1)  # fmt: skip
    assert broken[0, -1] == 2 and broken[0, 0] == 1


@pytest.mark.parametrize("portion", [0.0, -0.1, 1.01, float("nan")])
def test_a_portion_out_of_range_is_refused(portion):
    with pytest.raises(ValueError, match=r"portion must be in \(0, 1\], got"):
        top_thresholds(empty_histogram(2), portion)


THRESHOLD = torch.tensor([0.7, 0.4, 0.3, 1.0])


def pixels(probability):
    """Every pixel's place and probabilities."""
    for b, y, x in np.ndindex(probability[:, 0].shape):
        yield (b, y, x), probability[b, :, y, x].tolist()


def test_confident_labels():
    probability = predictions(1, sharpness=1.0)
    label = confident_label(probability, THRESHOLD)
    for place, chances in pixels(probability):
        best = max(range(CLASSES), key=chances.__getitem__)
        assert label[place] == (best if chances[best] >= THRESHOLD[best] else IGNORE)
    assert label.dtype == torch.uint8 and set(label.unique().tolist()) == {0, 1, 2, IGNORE}


def test_class_balanced_labels():
    probability = predictions(2, sharpness=1.0)
    label = class_balanced_label(probability, THRESHOLD)
    others = 0
    for place, chances in pixels(probability):
        ratios = [np.float32(p) / k for p, k in zip(chances, THRESHOLD.numpy(), strict=True)]
        best = int(np.argmax(ratios))
        expected = best if ratios[best] >= 1 else IGNORE
        assert label[place] == expected
        others += expected not in (IGNORE, int(np.argmax(chances)))
    assert label.dtype == torch.uint8 and set(label.unique().tolist()) == {0, 1, 2, IGNORE}
    assert others > 0, "another class than the most likely one has won"


def test_a_rare_class_may_win_against_a_likelier_one():
    probability = torch.tensor([0.55, 0.4, 0.05]).view(1, 3, 1, 1)
    threshold = torch.tensor([0.95, 0.35, 1.0])
    assert class_balanced_label(probability, threshold).item() == 1
    assert confident_label(probability, threshold).item() == IGNORE
    # A pixel that is accepted for one class does not become another.
    assert united_label(probability, threshold, 0.5).item() == IGNORE


@pytest.mark.parametrize("portion", [0.001, 0.1, 0.33, 1.0])
def test_united_labels(portion):
    probability = predictions(3)
    label = united_label(probability, THRESHOLD, portion)
    confidence = probability.amax(dim=1).numpy()
    count = math.floor(portion * confidence[0].size)
    lowest = [np.sort(image.ravel())[::-1][count - 1] if count else 2 for image in confidence]
    for (b, y, x), chances in pixels(probability):
        best = max(range(CLASSES), key=chances.__getitem__)
        taken = chances[best] >= THRESHOLD[best] or confidence[b, y, x] >= lowest[b]
        assert label[b, y, x] == (best if taken else IGNORE)
    assert (portion < 1) == bool((label == IGNORE).any())


def test_broken_predictions_get_no_label():
    probability = torch.full((1, CLASSES, 1, 2), torch.nan)
    for select in (confident_label, class_balanced_label):
        assert (select(probability, THRESHOLD) == IGNORE).all()
    assert (united_label(probability, THRESHOLD, 0.1) == IGNORE).all()
