import numpy as np
import pytest
import torch
from torch import Tensor

from sfseg.ops.confidence import BINS, class_quantiles, confidence_histogram, decayed_thresholds
from sfseg.types import IGNORE


def case(shape=(3, 40, 50), num_classes=6, seed=0):
    """Predictions with confidences as networks have them: most of them close to 1."""
    rng = np.random.default_rng(seed)
    label = rng.integers(num_classes, size=shape).astype(np.uint8)
    confidence = 1 - (1 - 1 / num_classes) * rng.beta(0.3, 1 + label, shape)
    return torch.as_tensor(confidence).float(), torch.as_tensor(label)


def sorted_quantile(values, share):
    """The value of rank round(share * n), the last one at most."""
    values = np.sort(values)
    return values[min(int(np.round(len(values) * share)), len(values) - 1)]


def test_counts_by_hand():
    confidence = torch.tensor([0.0, 0.05, 0.1, 0.95, 1.0, 1.0, 0.5, 0.5, float("nan")])
    label = torch.tensor([0, 0, 0, 0, 0, 1, IGNORE, 2, 0], dtype=torch.uint8)
    found = confidence_histogram(confidence, label, num_classes=2, bins=10)
    assert found.dtype == torch.int64
    assert found.tolist() == [[3, 1, 0, 0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]


def test_it_counts_as_numpy_does():
    confidence, label = case()
    found = confidence_histogram(confidence, label, num_classes=6)
    assert found.shape == (6, BINS)
    for k in range(6):
        values = confidence[label == k].numpy()
        part = (values * np.float32(BINS)).astype(int).clip(0, BINS - 1)
        np.testing.assert_array_equal(found[k], np.bincount(part, minlength=BINS))


def test_histograms_add_up_over_batches_and_order_does_not_matter():
    confidence, label = case()
    whole = confidence_histogram(confidence, label, num_classes=6)
    parts = [
        confidence_histogram(confidence[b], label[b], num_classes=6) for b in range(len(label))
    ]
    assert torch.equal(sum(parts), whole)
    assert torch.equal(confidence_histogram(confidence.mT, label.mT, num_classes=6), whole)
    rest = confidence_histogram(confidence[1:], label[1:], num_classes=6)
    assert torch.equal(whole - parts[0], rest)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.66, 0.8, 0.999, 1])
@pytest.mark.parametrize("bins", [BINS, 65536])
def test_quantiles_are_those_of_sorting_within_a_bin(share, bins):
    confidence, label = case()
    found = class_quantiles(
        confidence_histogram(confidence, label, num_classes=6, bins=bins), share
    )
    for k in range(6):
        exact = sorted_quantile(confidence[label == k].numpy(), share)
        assert found[k].item() == pytest.approx(exact, abs=1 / bins)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("share", [0, 0.4, 0.5, 0.8, 1])
def test_quantiles_of_few_pixels(count, share):
    values = np.random.default_rng(count).random(count).astype(np.float32)
    histogram = confidence_histogram(
        torch.as_tensor(values), torch.zeros(count, dtype=torch.uint8), num_classes=1
    )
    found = class_quantiles(histogram, share).item()
    assert found == pytest.approx(sorted_quantile(values, share), abs=1e-3)


def test_about_the_share_lies_below_even_within_one_bin():
    values = 0.9991 + 0.0008 * torch.rand(10000, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(10000, dtype=torch.uint8)
    threshold = class_quantiles(confidence_histogram(values, label, num_classes=1), 0.8)
    assert 0.7 < (values < threshold).float().mean() < 0.95


def test_a_class_without_pixels_selects_nothing():
    confidence, label = case(num_classes=4)
    threshold = class_quantiles(confidence_histogram(confidence, label, num_classes=6), 0.8)
    assert threshold.isnan().tolist() == [False] * 4 + [True] * 2
    assert not (torch.ones(()) > threshold[4])


def test_nothing_at_all_and_nothing_valid():
    nothing = confidence_histogram(torch.zeros(0), torch.zeros(0, dtype=torch.uint8), num_classes=3)
    void = confidence_histogram(
        torch.ones(2, 2), torch.full((2, 2), IGNORE, dtype=torch.uint8), num_classes=3
    )
    for histogram in (nothing, void):
        assert histogram.sum() == 0
        assert class_quantiles(histogram, 0.8).isnan().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_and_float_type(dtype):
    confidence, label = case()
    expected = confidence_histogram(confidence, label, num_classes=6)
    found = confidence_histogram(confidence.double(), label.to(dtype), num_classes=6)
    assert torch.equal(found, expected)
    half = confidence_histogram(confidence.bfloat16(), label, num_classes=6)
    assert torch.equal(half.sum(1), expected.sum(1))


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got"):
        class_quantiles(torch.ones(2, 10, dtype=torch.int64), share)


def decayed(confidence: list[list[float]]) -> Tensor:
    """Counts in a hundred bins, one class a row."""
    counts = torch.zeros(len(confidence), 100)
    for own, row in zip(confidence, counts, strict=True):
        for value in own:
            row[int(value * 100)] += 1
    return counts


def test_decayed_thresholds_are_quantiles_at_the_lower_end_of_their_bin() -> None:
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.2, 0.9, 501).tolist(), [0.755] * 40, []]
    threshold = decayed_thresholds(decayed(values), 0.5, least=0.1)
    assert float(threshold[0]) == pytest.approx(np.floor(np.median(values[0]) * 100) / 100)
    assert float(threshold[1]) == pytest.approx(0.75), "all pixels of one bin count"
    assert float(threshold[2]) == pytest.approx(0.1), "a class that has not been seen"
    assert decayed_thresholds(decayed(values), 0.5, least=0.8).tolist() == [pytest.approx(0.8)] * 3
    assert decayed_thresholds(decayed(values), 0.0, least=0.3).tolist() == [pytest.approx(0.3)] * 3


def test_thresholds_outlast_the_decay_of_their_counts() -> None:
    counts = decayed([[0.305, 0.315, 0.325, 0.335] * 5])
    before = decayed_thresholds(counts, 0.5, least=0.0)
    assert float(before[0]) == pytest.approx(0.32)
    assert torch.equal(decayed_thresholds(counts * 0.99**200, 0.5, least=0.0), before)
