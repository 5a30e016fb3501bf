import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from sfseg.ops.early_learning import Fit, fit_curve, has_slowed, slowdown

CURVES = ["cubic", "exponential"]
RULES = ["paper", "release"]


def saturating(t, a=0.6, b=0.8, c=3.0):
    return a * (1 - np.exp(-(t**b) / c))


def times(count=20):
    return np.arange(1.0, count + 1)


def slowed(iou, *, curve="cubic", rule="paper", threshold=0.95):
    t = times(len(iou))
    change = slowdown(fit_curve(t, iou, curve=curve), first=1, last=len(iou), rule=rule)
    return has_slowed(change, threshold=threshold, rule=rule)


@pytest.mark.parametrize("count", [4, 5, 50, 400])
@pytest.mark.parametrize("unit", [1, 1 / 200, 200])
def test_the_cubic_is_the_least_squares_one(count, unit):
    rng = np.random.default_rng(count)
    t = unit * times(count)
    iou = saturating(times(count)) + rng.normal(0, 0.02, count)
    fit = fit_curve(t, iou, curve="cubic")
    expected = np.polyfit(t, iou, 3)
    np.testing.assert_allclose(fit.value(t), np.polyval(expected, t), atol=1e-9)
    assert fit.slope(t[-1]) == pytest.approx(np.polyval(np.polyder(expected), t[-1]), rel=1e-6)


def test_a_cubic_is_found_again():
    coefficients = (2e-5, -1e-3, 2e-2, 0.1)
    fit = fit_curve(times(), np.polyval(coefficients, times()), curve="cubic")
    np.testing.assert_allclose(fit.coefficients, coefficients, rtol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_exponential_is_the_weighted_fit_of_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95), rng.uniform(0.5, 4)
    t = times(12)
    iou = saturating(t, a, b, c) + rng.normal(0, 0.01, 12)
    fit = fit_curve(t, iou, curve="exponential")
    found, _ = curve_fit(
        saturating, t, iou, p0=(1, 1, 1), sigma=np.geomspace(1, 0.1, 12), method="trf",
        bounds=([0, 0, 0], [1, 1, np.inf]),
    )  # fmt: skip
    np.testing.assert_allclose(fit.value(t), saturating(t, *found), atol=1e-5)
    assert fit.slope(t[-1]) == pytest.approx(
        (saturating(t[-1] + 1e-5, *found) - saturating(t[-1] - 1e-5, *found)) / 2e-5, rel=1e-2
    )


@pytest.mark.parametrize("coefficients", [(0.6, 0.8, 1.0), (0.8, 1.0, 3.0), (0.5, 0.5, 0.3)])
def test_an_exponential_is_found_again(coefficients):
    t = times()
    fit = fit_curve(t, saturating(t, *coefficients), curve="exponential")
    np.testing.assert_allclose(fit.coefficients, coefficients, rtol=1e-3)


def test_late_points_weigh_more_in_the_exponential():
    t = times(10)
    early, late = saturating(t), saturating(t)
    early[1] += 0.1
    late[-2] += 0.1
    clean = fit_curve(t, saturating(t), curve="exponential").value(t)
    moved = [
        np.abs(fit_curve(t, iou, curve="exponential").value(t)[-1] - clean[-1])
        for iou in (early, late)
    ]
    assert moved[1] > 5 * moved[0]


@pytest.mark.parametrize(
    ("coefficients", "epoch"),
    [((0.6, 0.8, 1.0), 4), ((0.8, 1.0, 3.0), 8), ((0.5, 0.5, 0.3), 3)],
)
@pytest.mark.parametrize("rule", RULES)
def test_epochs_of_correction_of_adele(coefficients, epoch, rule):
    fit = Fit("exponential", coefficients)
    firing = [
        t
        for t in range(1, 20)
        if has_slowed(slowdown(fit, first=1, last=t, rule=rule), threshold=0.9, rule=rule)
    ]
    assert firing[0] == epoch


def test_the_slope_of_the_exponential_is_its_derivative():
    fit = Fit("exponential", (0.6, 0.8, 1.5))
    for t in (1.0, 2.5, 9.0):
        around = fit.value(np.array([t - 1e-6, t + 1e-6]))
        assert fit.slope(t) == pytest.approx(np.diff(around)[0] / 2e-6, rel=1e-6)


@pytest.mark.parametrize("tau", [2, 4, 8, 16])
def test_no_clean_saturating_curve_fires_with_a_cubic_over_all_of_it(tau):
    """The slopes at the ends of the cubic differ by less than 0.95, or by more than 1."""
    t = times(20)
    fit = fit_curve(t, 0.6 * (1 - np.exp(-t / tau)), curve="cubic")
    assert not has_slowed(
        slowdown(fit, first=1, last=20, rule="release"), threshold=0.95, rule="release"
    )


def cubic_with_slopes(first, last):
    """A parabola on [1, 2] with these slopes at its ends."""
    return Fit("cubic", (0.0, (last - first) / 2, 2 * first - last, 0.0))


@pytest.mark.parametrize(
    ("first", "last", "paper", "release"),
    [
        (1, 1, 0, 0),  # steady
        (1, 0.02, 0.98, 0.98),  # slowed
        (1, -0.02, 1.02, 0.98),  # past its top, hardly
        (1, -0.5, 1.5, 0.5),
        (1, -1.97, 2.97, 0.97),
        (1, 2.5, 1.5, 1.5),  # faster
        (-1, -0.02, 0.98, 0.98),  # falls, ever slower
    ],
)
def test_the_two_rules(first, last, paper, release):
    fit = cubic_with_slopes(first, last)
    for rule, expected in (("paper", paper), ("release", release)):
        change = slowdown(fit, first=1, last=2, rule=rule)
        assert change == pytest.approx(expected)
    assert has_slowed(paper, threshold=0.95, rule="paper") == (paper > 0.95)
    assert has_slowed(release, threshold=0.95, rule="release") == (0.95 < release < 1)


def test_the_cubics_slowdown_does_not_depend_on_the_unit_of_time():
    rng = np.random.default_rng(0)
    iou = saturating(times()) + rng.normal(0, 0.02, 20)
    found = [
        slowdown(fit_curve(u * times(), iou, curve="cubic"), first=u, last=20 * u, rule="paper")
        for u in (1, 200, 0.01)
    ]
    assert found == pytest.approx([found[0]] * 3)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "iou",
    [
        [],
        [0.1],
        [0.1, 0.2, 0.3],
        [0.4] * 4,
        [0.3] * 30,
        [0.0] * 30,
        [1.0] * 30,
        [math.nan] * 30,
        [0.1, math.nan, 0.2, math.nan, 0.3, math.nan],
        list(np.linspace(0.1, 0.5, 12)),  # steady
    ],
    ids=lambda iou: f"{len(iou)} points, {iou[:2]}",
)
def test_what_never_fires(iou, curve, rule):
    if len(iou) == 12 and curve == "exponential":
        return  # it saturates, and cannot follow a straight line
    assert not slowed(np.array(iou), curve=curve, rule=rule)


@pytest.mark.parametrize("curve", CURVES)
def test_points_of_an_absent_class_are_left_out(curve):
    t, iou = times(), saturating(times())
    iou[[0, 7, 12]] = math.nan
    known = np.isfinite(iou)
    fit = fit_curve(t, iou, curve=curve)
    assert fit == fit_curve(t[known], iou[known], curve=curve)
    assert fit.value(t) == pytest.approx(saturating(t), abs=0.05)


def test_few_points_and_equal_times_have_no_fit():
    assert fit_curve(times(3), times(3) / 10, curve="cubic") is None
    assert fit_curve(np.array([1, 1, 2, 3]), times(4) / 10, curve="cubic") is None
    assert math.isnan(slowdown(None, first=1, last=2, rule="paper"))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("seed", range(8))
def test_noise_neither_fails_nor_warns(curve, seed):
    rng = np.random.default_rng(seed)
    iou = rng.random(rng.integers(4, 60)) * rng.choice([1, 1e-3, 1e-12])
    iou[rng.random(len(iou)) < 0.2] = math.nan
    assert slowed(iou, curve=curve) in (True, False)


def test_extreme_coefficients_have_a_slope():
    for coefficients in ((1, 1, 1e-300), (1, 1e-300, 1), (0, 1, 1), (1, 1, 0), (1, 0.5, 1e300)):
        fit = Fit("exponential", coefficients)
        assert all(math.isfinite(fit.slope(t)) for t in (1, 1e3, 1e9))
        assert np.isfinite(fit.value(np.array([1.0, 1e9]))).all()


def test_the_exponential_fires_on_a_saturating_curve_and_the_threshold_decides():
    iou = saturating(times(8), 0.8, 1.0, 3.0)
    assert slowed(iou, curve="exponential", threshold=0.9)
    assert not slowed(iou[:7], curve="exponential", threshold=0.9)


def test_errors():
    with pytest.raises(ValueError, match="'cubic' or 'exponential', got 'line'"):
        fit_curve(times(), times(), curve="line")
    with pytest.raises(ValueError, match="'paper' or 'release', got 'mine'"):
        slowdown(None, first=1, last=2, rule="mine")
    with pytest.raises(ValueError, match="t must be one positive time per IoU"):
        fit_curve(np.arange(5), np.ones(5), curve="cubic")
    with pytest.raises(ValueError, match="t must be one positive time per IoU"):
        fit_curve(times(4), np.ones(5), curve="cubic")
