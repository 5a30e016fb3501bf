"""Two Gaussians fitted to entropies: on a histogram, and by scikit-learn on all values.

Both arms start from the same means, variances and weights and stop by the same rule. The
histogram's time is charged with counting all values. Its room is the same for any number of
them.

Both run in one process, one after the other; times are of the wall. Read the ratios.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from sfseg.ops.two_gaussians import (
    FLOOR,
    Modes,
    count_entropies,
    empty_entropies,
    fit_modes,
    start,
)

Result = TypeVar("Result")
TOLERANCE = 1e-4
CHUNK = 1 << 19
"""Values counted at once: the pixels of an image."""


def drawn(values: int) -> Tensor:
    """(N,) float32: six of ten values about 0.15, the others about 0.55."""
    rng = np.random.default_rng(0)
    sure = rng.random(values, np.float32) < 0.6
    normal = rng.standard_normal(values, np.float32)
    entropy = np.where(sure, 0.15 + 0.04 * normal, 0.55 + 0.1 * normal)
    return torch.from_numpy(entropy.clip(0, 1))


def counted(entropy: Tensor) -> Tensor:
    """(1, bins) histogram, image by image."""
    histogram = empty_entropies(1)
    for part in entropy.split(CHUNK):
        count_entropies(histogram, part, torch.zeros_like(part, dtype=torch.uint8))
    return histogram


def by_histogram(entropy: Tensor) -> Modes:
    return Modes(*(part[0] for part in fit_modes(counted(entropy))))


def by_scikit_learn(entropy: Tensor, begun: Modes) -> Modes:
    fitted = GaussianMixture(
        2, covariance_type="spherical", tol=1e-6, reg_covar=FLOOR, max_iter=100,
        weights_init=begun.weight.numpy(), means_init=begun.mean.numpy()[:, None],
        precisions_init=1 / begun.variance.numpy(),
    ).fit(entropy.double().numpy()[:, None])  # fmt: skip
    parts = (fitted.weights_, fitted.means_[:, 0], fitted.covariances_)
    order = np.argsort(parts[1])
    return Modes(*(torch.from_numpy(part[order]) for part in parts))


def timed(arm: Callable[[], Result]) -> tuple[Result, float]:
    """What an arm returns, and its seconds."""
    begun = time.perf_counter()
    result = arm()
    return result, time.perf_counter() - begun


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=10_000_000)
    options = parser.parse_args(arguments)
    entropy = drawn(options.values)
    by_histogram(entropy[:1000])  # what the first call costs alone
    mine, fast = timed(lambda: by_histogram(entropy))
    histogram = counted(entropy)[0].double()
    begun = start(histogram / histogram.sum())
    theirs, slow = timed(lambda: by_scikit_learn(entropy, begun))
    deviations = [(modes.weight, modes.mean, modes.variance.sqrt()) for modes in (mine, theirs)]
    apart = max(float((a - b).abs().max()) for a, b in zip(*deviations, strict=True))
    print(f"{options.values:,} values: histogram {fast:.3f} s, scikit-learn {slow:.1f} s")
    print(f"scikit-learn / histogram: {slow / fast:.0f}")
    print(f"largest difference of a weight, mean or deviation: {apart:.1e}")
    print(f"room of the histogram: {histogram.nbytes:,} bytes a class, for any number of values")
    if apart > TOLERANCE:
        raise SystemExit(f"the fits differ by {apart:.1e}, more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
