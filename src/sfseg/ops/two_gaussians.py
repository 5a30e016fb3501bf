"""Two Gaussians in a histogram of uncertainty: what a model is sure of, and what not.

UPLR (Wang, Peng and Zhang, ICCV 2021) fits them to the entropies of each class's pixels. Here they
are fitted to histograms: these add up over images and processes, and a fit costs the same for any
number of pixels.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

BINS = 1024
"""Equal parts of [0, 1]: a deviation of 0.02 changes by a millionth of it."""
FLOOR = 1e-6
"""Added to every variance, as scikit-learn's GaussianMixture does."""
OUTER = (0.05, 0.95)
"""Shares of the pixels below the means that a fit starts from."""


class Modes(NamedTuple):
    """Two Gaussians of each histogram, that of the lower mean first.

    weight: (..., 2) share of the pixels; the two add up to 1.
    mean: (..., 2) entropy.
    variance: (..., 2).
    """

    weight: Float[Tensor, "*sets 2"]
    mean: Float[Tensor, "*sets 2"]
    variance: Float[Tensor, "*sets 2"]

    def density(self, value: Float[Tensor, " V"]) -> Float[Tensor, "*sets 2 V"]:
        """Weighted density of each Gaussian at some values."""
        return _log_joint(self, value).exp()


def empty_entropies(num_classes: int, *, device: torch.device | None = None) -> Tensor:
    """(K, bins) zeros for :func:`count_entropies`."""
    return torch.zeros(num_classes, BINS, dtype=torch.int64, device=device)


def count_entropies(
    histogram: Integer[Tensor, "K bins"],
    entropy: Float[Tensor, "*shape"],
    label: Integer[Tensor, "*shape"],
) -> None:
    """Add, in place, how many pixels of every class have which entropy.

    Args:
        histogram: of :func:`empty_entropies`.
        entropy: in [0, 1]; NaN counts as 1.
        label: predicted class ids; those that are no class, such as IGNORE, are not counted.
    """
    # In 32 bits and without a selection: ten times as fast as with. fmin takes the number of a
    # number and NaN.
    one = entropy.new_ones(())
    bins = (torch.fmin(entropy.flatten(), one) * BINS).int().clamp_(0, BINS - 1)
    code = bins.add_(label.flatten().int().clamp(max=len(histogram)), alpha=BINS)
    counts = torch.bincount(code, minlength=histogram.numel() + BINS)
    histogram.view(-1).add_(counts[: histogram.numel()])


def centres(device: torch.device | None = None) -> Float[Tensor, " bins"]:
    """Entropies in the middle of the bins, in float64."""
    return (torch.arange(BINS, dtype=torch.float64, device=device) + 0.5) / BINS


def fit_modes(
    histogram: Integer[Tensor, "*sets bins"], *, iterations: int = 100, tolerance: float = 1e-6
) -> Modes:
    """Expectation-maximisation on each of some histograms by itself.

    It begins with the means at the 5 % and 95 % quantiles, a quarter of the variance and equal
    weights, as the paper has them, and ends where the mean log-likelihood changes by less than a
    tolerance. The same steps as scikit-learn's GaussianMixture takes from there.

    Args:
        histogram: counts; one without any gives weights of 1/2 and means of 1/2.
        iterations: at most so many.
        tolerance: of the mean log-likelihood of a pixel.
    """
    value = centres(histogram.device)
    share = _shares(histogram)
    modes = start(share)
    likelihood = share.new_full(share.shape[:-1], -torch.inf)
    moving = torch.ones_like(likelihood, dtype=torch.bool)
    for _ in range(iterations):
        joint = _log_joint(modes, value)
        evidence = joint.logsumexp(dim=-2)
        new_likelihood = (share * evidence).sum(dim=-1)
        modes = _where(moving, _maximised((joint - evidence[..., None, :]).exp(), share), modes)
        moving = moving & ((new_likelihood - likelihood).abs() >= tolerance)
        likelihood = new_likelihood
        if not moving.any():
            break
    return _by_mean(modes)


def fit_modes_by_scikit_learn(
    histogram: Integer[Tensor, "*sets bins"], *, pixels: int = 20_000
) -> Modes:
    """:func:`fit_modes` by scikit-learn's GaussianMixture, the reference: hundreds of times slower.

    Args:
        histogram: counts; it is given their values, at most ``pixels`` of them, evenly spread.
        pixels: see there.
    """
    from sklearn.mixture import GaussianMixture

    rows = histogram.reshape(-1, BINS)
    begun = start(_shares(rows))
    found = []
    for counts, weight, mean, variance in zip(rows.cpu().numpy(), *begun, strict=True):
        total = int(counts.sum())
        if total < 2:
            found.append(torch.stack([weight, mean, variance]))
            continue
        ranks = (np.arange(min(total, pixels)) + 0.5) * total / min(total, pixels)
        bins = np.searchsorted(counts.cumsum(), ranks)
        fitted = GaussianMixture(
            2, covariance_type="spherical", tol=1e-6, reg_covar=FLOOR, weights_init=weight.numpy(),
            means_init=mean.numpy()[:, None], precisions_init=1 / variance.numpy(),
        ).fit(centres().numpy()[bins][:, None])  # fmt: skip
        parts = (fitted.weights_, fitted.means_[:, 0], fitted.covariances_)
        found.append(torch.from_numpy(np.stack(parts)))
    weight, mean, variance = torch.stack(found, dim=1).to(histogram.device)
    return _by_mean(Modes(*(p.reshape(*histogram.shape[:-1], 2) for p in (weight, mean, variance))))


def start(share: Float[Tensor, "*sets bins"]) -> Modes:
    """What a fit begins with, of shares of the pixels that add up to 1."""
    value = centres(share.device)
    below = share.cumsum(dim=-1)
    outer = below.new_tensor(OUTER)
    place = (below[..., None, :] < outer[:, None] * below[..., -1:, None]).sum(dim=-1)
    mean = (share * value).sum(dim=-1, keepdim=True)
    variance = (share * (value - mean).square()).sum(dim=-1, keepdim=True)
    quarter = (variance / 4).clamp(min=FLOOR).expand(*variance.shape[:-1], 2)
    return Modes(torch.full_like(quarter, 0.5), value[place.clamp(max=BINS - 1)], quarter)


def crossing(modes: Modes) -> Float[Tensor, "*sets"]:
    """Largest entropy between the means up to which the first Gaussian is the likelier one.

    Beyond the means a wide Gaussian may win again, so that posteriors need not fall with the
    entropy; one threshold between the means leaves no islands.
    """
    (m1, m2), (v1, v2) = modes.mean.unbind(-1), modes.variance.unbind(-1)
    w1, w2 = modes.weight.clamp(min=torch.finfo(torch.float64).tiny).unbind(-1)
    # The logarithm of the ratio of both, a x^2 + b x + c; x counted from the first mean.
    gap = m2 - m1
    a = 1 / (2 * v2) - 1 / (2 * v1)
    b = -gap / v2
    c = (w1 / w2).log() + (v2 / v1).log() / 2 + gap.square() / (2 * v2)
    root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
    q = -(b + torch.where(b < 0, -root, root)) / 2
    found = torch.stack([q / a, c / q]).nan_to_num(torch.inf, torch.inf, torch.inf)
    inside = torch.where((found >= 0) & (found <= gap), found, torch.inf).amin(dim=0)
    return m1 + torch.where(c < 0, 0.0, torch.minimum(inside, gap))


def certain_below(modes: Modes, *, least_gap: float = 0.05) -> Float[Tensor, "*sets"]:
    """Entropy up to which a class's pixels are taken for certain.

    :func:`crossing`; but expectation-maximisation finds two Gaussians in one cluster as well, and
    would leave out half of a class that is certain all over. So where the means are closer than
    ``least_gap``, all is kept up to three deviations above the second mean. That is no part of the
    paper; 0 switches it off.
    """
    one_cluster = modes.mean[..., 1] + 3 * modes.variance[..., 1].sqrt()
    gap = modes.mean[..., 1] - modes.mean[..., 0]
    return torch.where(gap < least_gap, one_cluster, crossing(modes))


def _shares(histogram: Integer[Tensor, "*sets bins"]) -> Float[Tensor, "*sets bins"]:
    count = histogram.double()
    total = count.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, count / total.clamp(min=1), 1 / BINS)


def _by_mean(modes: Modes) -> Modes:
    order = modes.mean.argsort(dim=-1, stable=True)
    return Modes(*(part.gather(-1, order) for part in modes))


def _log_joint(modes: Modes, value: Float[Tensor, " V"]) -> Float[Tensor, "*sets 2 V"]:
    weight, mean, variance = (part[..., None] for part in modes)
    distance = (value - mean).square() / variance
    return weight.log() - (distance + (2 * math.pi * variance).log()) / 2


def _maximised(posterior: Float[Tensor, "*sets 2 bins"], share: Tensor) -> Modes:
    value = centres(share.device)
    part = posterior * share[..., None, :]
    # scikit-learn's, so that an empty Gaussian does not divide by 0.
    weight = part.sum(dim=-1) + 10 * torch.finfo(torch.float64).eps
    mean = (part * value).sum(dim=-1) / weight
    variance = (part * (value - mean[..., None]).square()).sum(dim=-1) / weight + FLOOR
    return Modes(weight / weight.sum(dim=-1, keepdim=True), mean, variance)


def _where(chosen: Tensor, new: Modes, old: Modes) -> Modes:
    return Modes(*(torch.where(chosen[..., None], a, b) for a, b in zip(new, old, strict=True)))
