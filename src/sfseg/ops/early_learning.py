"""When a class stops learning from its pseudo-labels and begins to memorise their errors.

The training IoU of a class against its pseudo-labels rises fast, then slowly. ADELE (Liu et al.,
CVPR 2022) and Uni-UVPT (Ma et al., NeurIPS 2023) fit a curve to it and correct the labels once
its slope has fallen far enough below the first one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Curve = Literal["cubic", "exponential"]
Rule = Literal["paper", "release"]

MIN_POINTS = 4
"""Fewer leave a cubic undetermined."""
FLAT = 1e-9
"""Change of IoU over a curve, measured or at its first slope, that is no more than rounding."""


@dataclass(frozen=True)
class Fit:
    """A fitted curve g(t) of IoU.

    Args:
        curve: ``cubic``: a t^3 + b t^2 + c t + d; ``exponential``: a (1 - exp(-t^b / c)).
        coefficients: a, b, c (and d).
    """

    curve: Curve
    coefficients: tuple[float, ...]

    def value(self, t: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
        """g(t)."""
        if self.curve == "cubic":
            return np.polyval(self.coefficients, t)
        return _exponential(self.coefficients, t)

    def slope(self, t: float) -> float:
        """g'(t)."""
        if self.curve == "cubic":
            return float(np.polyval(np.polyder(np.array(self.coefficients)), t))
        a, b, c = self.coefficients
        if a * b == 0 or c <= 0:
            return 0.0
        # As one exponential: of its factors, some overflow where others vanish.
        exponent = math.log(a * b / c) + (b - 1) * math.log(t) - _over(math.pow(t, b), c)
        return math.exp(exponent)


def fit_curve(
    t: Float[np.ndarray, " T"], iou: Float[np.ndarray, " T"], *, curve: Curve
) -> Fit | None:
    """Least squares of an IoU curve; None for fewer than four points and for a flat curve.

    The exponential is ADELE's: a and b in [0, 1], c not negative, and the last point weighs ten
    times as much as the first, geometrically in between.

    Args:
        t: times of the measurements, positive and distinct, in any unit: the cubic's slowdown
            does not depend on it, the exponential's does (epochs in ADELE).
        iou: training IoU in [0, 1]; NaN, for a class that was absent, is left out.
        curve: see :class:`Fit`.

    Raises:
        ValueError: another curve, times that are not positive or not one per value.
    """
    if curve not in ("cubic", "exponential"):
        raise ValueError(f"curve must be 'cubic' or 'exponential', got {curve!r}")
    t, iou = np.asarray(t, np.float64), np.asarray(iou, np.float64)
    if t.shape != iou.shape or t.ndim != 1 or not (t > 0).all():
        raise ValueError(f"t must be one positive time per IoU ({iou.shape}), got {t}")
    known = np.isfinite(iou)
    t, iou = t[known], iou[known]
    if len(t) < MIN_POINTS or np.ptp(iou) <= FLAT:
        return None
    return _fit_cubic(t, iou) if curve == "cubic" else _fit_exponential(t, iou)


def slowdown(fit: Fit | None, *, first: float, last: float, rule: Rule) -> float:
    """Relative change of slope between two times: 0 at a steady pace, 1 when all is learnt.

    By rule ``paper`` it is ``|g'(first) - g'(last)| / |g'(first)|``; ``release`` compares the
    slopes' sizes, so that falling as fast as it rose counts as steady. NaN without a fit, or
    where the curve starts flat.

    Raises:
        ValueError: another rule.
    """
    if rule not in ("paper", "release"):
        raise ValueError(f"rule must be 'paper' or 'release', got {rule!r}")
    if fit is None:
        return math.nan
    start, end = fit.slope(first), fit.slope(last)
    if not abs(start) * max(abs(last - first), 1) > FLAT:
        return math.nan
    change = start - end if rule == "paper" else abs(start) - abs(end)
    return abs(change) / abs(start)


def has_slowed(slowdown: float, *, threshold: float, rule: Rule) -> bool:
    """Whether a class is to be corrected; never where its slowdown is undefined.

    Args:
        slowdown: :func:`slowdown` by the same rule.
        threshold: 0.95 in Uni-UVPT, 0.9 in ADELE.
        rule: ``release`` also asks for less than 1, which leaves a slope that has changed its
            sign only if it is smaller than ``1 - threshold`` of the first.
    """
    if rule == "release":
        return threshold < slowdown < 1
    return slowdown > threshold


def _fit_cubic(t: NDArray[np.float64], iou: NDArray[np.float64]) -> Fit | None:
    scale = t.max()
    found = np.linalg.lstsq(np.vander(t / scale, 4), iou, rcond=None)
    if found[2] < MIN_POINTS:  # times that are not distinct
        return None
    return Fit("cubic", tuple(float(c) for c in found[0] / scale ** np.arange(3, -1, -1)))


def _fit_exponential(t: NDArray[np.float64], iou: NDArray[np.float64]) -> Fit | None:
    from scipy.optimize import least_squares  # takes half a second, and cubics need none of it

    weight = np.geomspace(1, 10, len(t))

    def residuals(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        return (_exponential(coefficients, t) - iou) * weight

    found = least_squares(
        residuals, x0=(1, 1, 1), bounds=((0, 0, 0), (1, 1, np.inf)), max_nfev=1000
    )
    if not found.success:
        return None
    return Fit("exponential", tuple(float(c) for c in found.x))


def _exponential(
    coefficients: tuple[float, ...] | NDArray[np.float64], t: NDArray[np.float64]
) -> NDArray[np.float64]:
    a, b, c = coefficients
    with np.errstate(over="ignore", divide="ignore"):
        value: NDArray[np.float64] = a * -np.expm1(-(t**b) / c)
    return value


def _over(numerator: float, denominator: float) -> float:
    """Division that overflows to infinity."""
    try:
        return numerator / denominator
    except (OverflowError, ZeroDivisionError):
        return math.inf
