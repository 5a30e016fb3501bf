"""Images of rare classes more often than others: two samplers with replacement.

An image may come several times before another one does, so the number of a draw, over all
processes, takes the place of the pass: equal images of two draws are cropped and coloured apart.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sfseg.checks import require_at_least, require_options, require_positive, require_shares
from sfseg.data.folder import Ticket, Wanted
from sfseg.data.sampling import Contents
from sfseg.errors import ConfigError
from sfseg.randomness import generator

log = logging.getLogger(__name__)

Shares = NDArray[np.float64]
Normalise = Literal["max", "mean", "none"]
FLAT = 1e-3
"""Weights that differ by less than this choose as if there were none."""


@dataclass(frozen=True)
class RareClass:
    """Rare-class sampling of DAFormer (Hoyer, Dai and Van Gool, CVPR 2022).

    A class is drawn, P(c) = softmax((1 - f_c) / temperature) of its share f_c of all labelled
    pixels, then an image uniformly among those with more than ``min_pixels`` of it. The crop is
    drawn again until it shows more than ``min_pixels * min_crop_ratio`` pixels of the class. A
    class that no image has that many pixels of takes no part.

    Args:
        temperature: towards 0 only the rarest class comes; ``inf`` draws all equally often.
        min_pixels: counted in the label as stored.
        min_crop_ratio: of ``min_pixels``; counted in the crop, after resizing.
        redraws: crops that are drawn besides the first; the last one is taken as it is.

    Raises:
        ValueError: a value out of its range.
    """

    temperature: float = 0.01
    min_pixels: int = 3000
    min_crop_ratio: float = 0.5
    redraws: int = 10
    counts_classes: ClassVar[bool] = True
    follows_focus: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.temperature, str):
            raise ValueError(
                f"temperature must be a number, got {self.temperature!r}; without bounds it is inf "
                "on the command line, .inf in a file"
            )
        require_positive(temperature=self.temperature)
        require_at_least(
            0,
            min_pixels=self.min_pixels,
            min_crop_ratio=self.min_crop_ratio,
            redraws=self.redraws,
        )

    def order(
        self, contents: Contents, *, seed: int, purpose: str, focus: Sequence[int] | None = None
    ) -> "RareClassOrder":
        """See :class:`sfseg.data.sampling.ImageSampler`."""
        total = contents.counts.sum(axis=0)
        say_absent(contents, purpose)
        images = [np.flatnonzero(pixels > self.min_pixels) for pixels in contents.counts.T]
        known = np.array([k for k, found in enumerate(images) if len(found)], np.int64)
        if not len(known):
            raise ConfigError(
                f"data.sampler.min_pixels={self.min_pixels} leaves no image of the {purpose} to "
                "draw: the most pixels that one has of a class are "
                f"{contents.counts.max(initial=0)}; lower it"
            )
        if few := np.setdiff1d(np.flatnonzero(total), known).tolist():
            log.warning(
                "%s: no image has more than data.sampler.min_pixels=%s pixels of %s, which are "
                "not looked for; lower it", purpose, self.min_pixels, _named(few, contents),
            )  # fmt: skip
        chances = class_chances(total[known] / total.sum(), self.temperature)
        return RareClassOrder(self, known, chances, [images[k] for k in known], (seed, purpose))


class RareClassOrder:
    """Draws of :class:`RareClass`, each of an image and of the class that its crop should show.

    Args:
        settings: of the sampler.
        classes: (R,) ids of the classes that are looked for.
        chances: (R,) of each, which sum to 1.
        images: of each, those with enough of it.
        key: run seed and purpose of all draws.
    """

    def __init__(
        self,
        settings: RareClass,
        classes: NDArray[np.int64],
        chances: Shares,
        images: Sequence[NDArray[np.int64]],
        key: tuple[int, str],
    ) -> None:
        self.classes, self.chances, self.images = classes, chances, images
        self._bounds = np.cumsum(chances)
        self._seed, self._purpose = key
        self._pixels = settings.min_pixels * settings.min_crop_ratio
        self._redraws = settings.redraws

    def __call__(self, position: int) -> Ticket:
        rng = generator(self._seed, position, 0, f"{self._purpose}/sampler")
        number = drawn(self._bounds, rng)
        wanted = Wanted(int(self.classes[number]), self._pixels, self._redraws)
        return Ticket(position, int(rng.choice(self.images[number])), wanted)


def class_chances(shares: Shares, temperature: float) -> Shares:
    """softmax((1 - share) / temperature), (K,), of classes with these shares of all pixels."""
    exponents = (shares.min(initial=1.0) - shares) / temperature
    powers: Shares = np.exp(exponents)
    chances: Shares = powers / powers.sum()
    return chances


@dataclass(frozen=True)
class SoftBalance:
    """Soft-balance sampling of UPLR (Wang, Peng and Zhang, ICCV 2021).

    An image x is drawn in proportion to 0.1 + 1 / (1 + exp(-alpha (p_x - mu))), where p_x is the
    mean of p_c = N_c^lambda / sum N_c'^lambda / N_c over the classes of S, weighted by
    N_c(x)^lambda of the image's own pixels, and N_c are the pixels of class c in the set. The
    values of lambda, alpha and mu are not published. By the printed formula p_x is about 1e-8 and
    all images weigh the same: it is rescaled.

    Args:
        lambda_: from 0, all classes alike, to 1, as often as they occur.
        alpha: steepness of the sigmoid.
        mu: score at its middle.
        normalise: scores are divided by their ``max`` or ``mean`` over the set; ``none`` is the
            printed formula.
        classes: names of the classes of S; None means all, until a method names those that the
            network is most uncertain of, see :meth:`sfseg.data.module.AdaptationData.focus`.
        k: how many of these S has; None takes all.

    Raises:
        ValueError: a value out of its range.
    """

    lambda_: float = 0.5
    alpha: float = 10.0
    mu: float = 0.2
    normalise: Normalise = "max"
    classes: Sequence[str] | None = None
    k: int | None = None
    counts_classes: ClassVar[bool] = True
    follows_focus: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_options(normalise=(self.normalise, Normalise))
        require_shares(lambda_=self.lambda_)
        if not 0 <= self.alpha < math.inf or not math.isfinite(self.mu):
            raise ValueError(
                f"alpha must be finite and not negative, and mu finite, got {self.alpha}, {self.mu}"
            )
        if self.k is not None:
            require_at_least(1, k=self.k)

    def order(
        self, contents: Contents, *, seed: int, purpose: str, focus: Sequence[int] | None = None
    ) -> "WeightedOrder":
        """See :class:`sfseg.data.sampling.ImageSampler`."""
        scores = self.scores(contents.counts, self._chosen(contents, purpose, focus))
        weights = self.weights(scores)
        usable = np.setdiff1d(np.arange(contents.length), list(contents.left_out))
        least, most = float(weights[usable].min()), float(weights[usable].max())
        log.info("%s: images are drawn with weights from %.4g to %.4g", purpose, least, most)
        if self.normalise == "none" or most - least < FLAT:
            log.warning(
                "%s: the weights of images differ by %.3g in all (%.7g to %.7g), so that these "
                "are drawn %s; data.sampler.normalise=max rescales their scores, here %.3g to %.3g",
                purpose, most - least, least, most,
                "all alike" if most - least < FLAT else "by unscaled scores",
                float(scores[usable].min()), float(scores[usable].max()),
            )  # fmt: skip
        allowed = np.zeros_like(weights)
        allowed[usable] = weights[usable]
        return WeightedOrder(allowed / allowed.sum(), (seed, purpose))

    def scores(self, counts: NDArray[np.int64], classes: Sequence[int]) -> Shares:
        """p_x (N,) of images with these pixels (N, K) for the classes of S, before rescaling."""
        total = counts.sum(axis=0, dtype=np.float64)
        powers = _power(total, self.lambda_)
        factors = powers / max(powers.sum(), 1.0) / np.maximum(total, 1)
        chosen = list(classes)
        own = _power(counts[:, chosen].astype(np.float64), self.lambda_)
        sums: Shares = own.sum(axis=1)
        scores: Shares = own @ factors[chosen] / np.where(sums > 0, sums, 1)
        return scores

    def weights(self, scores: Shares) -> Shares:
        """Phat (N,), each above 0.1 and below 1.1."""
        scale = {"max": scores.max(initial=0), "mean": scores.mean(), "none": 1.0}[self.normalise]
        with np.errstate(over="ignore"):
            return 0.1 + 1 / (1 + np.exp(-self.alpha * (scores / (scale or 1.0) - self.mu)))

    def _chosen(
        self, contents: Contents, purpose: str, focus: Sequence[int] | None
    ) -> Sequence[int]:
        """Ids of the classes of S."""
        names = contents.classes
        if self.k is not None and self.k > len(names):
            raise ConfigError(
                f"data.sampler.k={self.k} is more than the {len(names)} classes; lower it"
            )
        if unknown := [name for name in self.classes or () if name not in names]:
            raise ConfigError(
                f"data.sampler.classes={unknown[0]} is none of {', '.join(names)}; correct it"
            )
        absent = say_absent(contents, purpose)
        if focus is not None:
            chosen = [k for k in focus if k not in absent][: self.k]
            log.info("%s: images with these are preferred: %s", purpose, _named(chosen, contents))
            return chosen
        given = range(len(names)) if self.classes is None else map(names.index, self.classes)
        return [k for k in given if k not in absent]


class WeightedOrder:
    """Images drawn with replacement.

    Args:
        chances: (N,) of each image, which sum to 1.
        key: run seed and purpose of all draws.
    """

    def __init__(self, chances: Shares, key: tuple[int, str]) -> None:
        self.chances = chances
        self._bounds = np.cumsum(chances)
        self._seed, self._purpose = key

    def __call__(self, position: int) -> Ticket:
        rng = generator(self._seed, position, 0, f"{self._purpose}/sampler")
        return Ticket(position, drawn(self._bounds, rng))


def drawn(bounds: Shares, rng: np.random.Generator) -> int:
    """A number, as often as it is due by sums (N,) of chances that need not end at 1 exactly."""
    return int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))


def say_absent(contents: Contents, purpose: str) -> Sequence[int]:
    """Ids of the classes that no image contains, which the log names."""
    absent: Sequence[int] = np.flatnonzero(contents.counts.sum(axis=0) == 0).tolist()
    if absent:
        log.warning("%s: no image contains %s, which take no part in the choice of images",
                    purpose, _named(absent, contents))  # fmt: skip
    return absent


def _named(classes: Sequence[int], contents: Contents) -> str:
    return ", ".join(contents.classes[k] for k in classes) or "no class"


def _power(pixels: Shares, exponent: float) -> Shares:
    """Where there are pixels; 0 where there are none, also to the power of 0."""
    return np.where(pixels > 0, pixels**exponent, 0.0)
