"""Two Gaussians in histograms: against scikit-learn, and where thresholds must lie."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from sfseg.ops.two_gaussians import (
    BINS,
    FLOOR,
    Modes,
    centres,
    certain_below,
    count_entropies,
    crossing,
    empty_entropies,
    fit_modes,
    fit_modes_by_scikit_learn,
    start,
)


def drawn(weight=0.6, means=(0.15, 0.55), deviations=(0.05, 0.12), pixels=200_000, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.random(pixels) < weight
    pairs = zip(means, deviations, strict=True)
    values = np.where(first, *(rng.normal(*pair, pixels) for pair in pairs))
    return torch.from_numpy(values.clip(0, 1 - 1e-9))


def counted(values, label=None, classes=1):
    histogram = empty_entropies(classes)
    label = torch.zeros_like(values, dtype=torch.uint8) if label is None else label
    count_entropies(histogram, values, label)
    return histogram


def test_recovers_what_was_drawn():
    modes = fit_modes(counted(drawn())[0])
    expected = [(0.6, 0.4), (0.15, 0.55), (0.05**2, 0.12**2)]
    for part, values in zip(modes, expected, strict=True):
        torch.testing.assert_close(part, torch.tensor(values).double(), atol=0.005, rtol=0)


@pytest.mark.parametrize(
    "shape",
    [{}, {"weight": 0.9, "means": (0.05, 0.3), "deviations": (0.02, 0.1)}, {"means": (0.3, 0.5)}],
    ids=["apart", "one rare", "overlapping"],
)
def test_equals_scikit_learn_from_the_same_start(shape):
    values = drawn(**shape, pixels=50_000)
    histogram = counted(values)[0]
    begun = start(histogram.double() / histogram.sum())
    reference = GaussianMixture(
        2, tol=1e-6, reg_covar=FLOOR, max_iter=100, covariance_type="spherical",
        weights_init=begun.weight.numpy(), means_init=begun.mean.numpy()[:, None],
        precisions_init=1 / begun.variance.numpy(),
    ).fit(values.numpy()[:, None])  # fmt: skip
    modes = fit_modes(histogram)
    theirs = [reference.weights_, reference.means_[:, 0], reference.covariances_]
    for mine, other in zip(modes, theirs, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(other), atol=1e-4, rtol=0)


def test_histograms_of_parts_add_up_and_each_class_is_fitted_by_itself():
    values = torch.cat([drawn(seed=1), drawn(0.3, (0.1, 0.7), seed=2)])
    label = torch.arange(len(values)) // (len(values) // 2)
    whole = counted(values, label, 2)
    parts = [counted(v, k, 2) for v, k in zip(values.chunk(7), label.chunk(7), strict=True)]
    assert torch.equal(sum(parts), whole) and whole.sum() == len(values)
    both = fit_modes(whole)
    for k in range(2):
        for mine, alone in zip(both, fit_modes(whole[k]), strict=True):
            assert torch.equal(mine[k], alone)


def test_void_nan_and_the_ends_are_counted_as_said():
    values = torch.tensor([0.0, 1.0, torch.nan, 0.5, 0.5])
    histogram = counted(values, torch.tensor([0, 0, 0, 255, 7]), 2)
    assert histogram.sum() == 3 and histogram[0, 0] == 1 and histogram[0, BINS - 1] == 2


@pytest.mark.parametrize(
    "modes",
    [
        ((0.5, 0.5), (0.2, 0.6), (0.01, 0.01)),
        ((0.7, 0.3), (0.1, 0.5), (0.0004, 0.04)),
        ((0.3, 0.7), (0.1, 0.5), (0.04, 0.0004)),
        ((0.02, 0.98), (0.3, 0.4), (0.01, 0.02)),
        ((0.98, 0.02), (0.3, 0.4), (0.02, 0.02)),
    ],
)
def test_the_threshold_is_where_the_posterior_passes_one_half(modes):
    modes = Modes(*(torch.tensor(part).double() for part in modes))
    threshold = float(crossing(modes))
    low, high = modes.mean.tolist()
    grid = torch.linspace(low, high, 100_001, dtype=torch.float64)
    first, second = modes.density(grid)
    lost = (second > first).nonzero()
    expected = float(grid[lost[0, 0]]) if len(lost) else high
    assert low <= threshold <= high
    assert threshold == pytest.approx(expected, abs=2e-5)


def test_one_cluster_is_kept_whole_unless_that_is_switched_off():
    values = drawn(1.0, (0.02, 0.5), (0.004, 0.1))
    modes = fit_modes(counted(values)[0])
    kept = [
        float((values <= certain_below(modes, **o)).double().mean()) for o in ({}, {"least_gap": 0})
    ]
    assert kept[0] > 0.99 and kept[1] < 0.8


@pytest.mark.parametrize("counts", [{}, {3: 5}, {0: 1}, {10: 4, 900: 4}], ids=str)
def test_few_pixels_or_none_leave_all_finite(counts):
    histogram = torch.zeros(BINS, dtype=torch.int64)
    for place, count in counts.items():
        histogram[place] = count
    modes = fit_modes(histogram)
    threshold = certain_below(modes)
    assert all(torch.isfinite(part).all() for part in modes) and torch.isfinite(threshold)
    assert modes.mean[0] <= modes.mean[1]
    if len(counts) == 2:
        assert centres()[10] <= threshold < centres()[900]


def test_scikit_learn_may_be_chosen_for_many_histograms_at_once():
    values = torch.stack([drawn(pixels=3000), drawn(0.8, (0.05, 0.4), seed=3, pixels=3000)])
    histogram = torch.stack([*(counted(row)[0] for row in values), torch.zeros(BINS).long()])
    theirs = fit_modes_by_scikit_learn(histogram)
    for mine, other in zip(fit_modes(histogram), theirs, strict=True):
        torch.testing.assert_close(mine[:2], other[:2], atol=1e-4, rtol=0)
        assert torch.isfinite(other).all()
    few = fit_modes_by_scikit_learn(histogram, pixels=1000)
    torch.testing.assert_close(few.mean[:2], theirs.mean[:2], atol=0.01, rtol=0)
