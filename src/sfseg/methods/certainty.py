"""Which predictions UPLR makes pseudo-labels of: those that are certain for their class."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from sfseg.checks import require_at_least, require_options, require_weights
from sfseg.ops.entropy import probability_entropy
from sfseg.ops.inference import Inference, most_likely
from sfseg.ops.selection import confident_label, count_doubts, empty_histogram, top_thresholds
from sfseg.ops.two_gaussians import (
    Modes,
    certain_below,
    count_entropies,
    empty_entropies,
    fit_modes,
    fit_modes_by_scikit_learn,
)
from sfseg.types import IGNORE

Scope = Literal["image", "dataset"]
Fit = Literal["histogram", "scikit-learn"]


@dataclass(frozen=True)
class Choosy:
    """What both rules share: they leave some pixels out.

    Args:
        flip: mirrored images are predicted too, whatever the evaluation does.
    """

    flip: bool = field(default=False, kw_only=True)

    @property
    def keeps_all(self) -> bool:
        """No."""
        return False

    def protocol(self, inference: Inference) -> Inference:
        """How images are predicted, given how they are in evaluation."""
        return replace(inference, flip=True) if self.flip else inference


@dataclass(frozen=True)
class TwoModes(Choosy):
    """Pixels whose entropy lies in the certain one of their class's two modes (UPLR, ICCV 2021).

    No threshold is set by hand: two Gaussians are fitted to the entropies of the pixels that a
    class was predicted for, and where the likelier one changes is the threshold.

    Args:
        scope: whose pixels are fitted: each ``image``'s own, as the paper writes it, or those of
            the whole ``dataset``, which a class of few pixels in an image falls back to.
        fit: ``histogram``, or ``scikit-learn`` as a reference.
        min_pixels: of a class in an image from which it is fitted there; the paper names none.
        least_gap: see :func:`sfseg.ops.two_gaussians.certain_below`; 0 is the paper, which says
            nothing of classes with one mode.
        flip: see :class:`Choosy`.

    Raises:
        ValueError: an unknown scope or fit, fewer than 2 pixels, a negative gap.
    """

    scope: Scope = "image"
    fit: Fit = "histogram"
    min_pixels: int = 500
    least_gap: float = 0.05

    def __post_init__(self) -> None:
        require_options(
            **{"pseudo_label.scope": (self.scope, Scope), "pseudo_label.fit": (self.fit, Fit)}
        )
        require_at_least(2, **{"pseudo_label.min_pixels": self.min_pixels})
        require_weights(**{"pseudo_label.least_gap": self.least_gap})

    def empty(self, num_classes: int, device: torch.device) -> Tensor:
        """(K, bins) zeros for :meth:`count`."""
        return empty_entropies(num_classes, device=device)

    def count(
        self, histogram: Integer[Tensor, "K bins"], probability: Float[Tensor, "B K H W"]
    ) -> None:
        """Add, in place, the entropies of images to those of their predicted classes."""
        count_entropies(histogram, probability_entropy(probability), most_likely(probability))

    def modes(self, histogram: Integer[Tensor, "K bins"]) -> Modes:
        """Certain and uncertain mode of each class."""
        if self.fit == "histogram":
            return fit_modes(histogram)
        return fit_modes_by_scikit_learn(histogram)

    def thresholds(self, histogram: Integer[Tensor, "K bins"]) -> Float[Tensor, " K"]:
        """Entropy of each class up to which a pixel is certain."""
        return certain_below(self.modes(histogram), least_gap=self.least_gap)

    def labels(
        self, probability: Float[Tensor, "B K H W"], threshold: Float[Tensor, " K"]
    ) -> UInt8[Tensor, "B H W"]:
        """The most likely class of certain pixels, IGNORE of the others.

        Args:
            probability: of the pixels' classes.
            threshold: of each class over all images.
        """
        entropy, label = probability_entropy(probability), most_likely(probability)
        limits = [
            threshold if self.scope == "dataset" else self._own(one, its, threshold)
            for one, its in zip(entropy, label, strict=True)
        ]
        limit = torch.stack([own[its] for own, its in zip(limits, label, strict=True)])
        return torch.where(entropy <= limit, label, IGNORE).to(torch.uint8)

    def _own(self, entropy: Tensor, label: Tensor, threshold: Tensor) -> Tensor:
        """Thresholds (K,) of an image, and those given for classes that it shows little of."""
        histogram = empty_entropies(len(threshold), device=entropy.device)
        count_entropies(histogram, entropy, label)
        shown = histogram.sum(dim=1) >= self.min_pixels
        limit = threshold.clone()
        if shown.any():
            limit[shown] = self.thresholds(histogram[shown]).to(limit.dtype)
        return limit


@dataclass(frozen=True)
class MedianConfidence(Choosy):
    """Pixels as confident as half of their class's are, or as a cap: the rule UPLR compares with.

    Of CBST and BDL (Li, Yuan and Vasconcelos, CVPR 2019): the threshold of a class is the median
    of its confidences over all images, at most 0.9.

    Args:
        portion: share of a class's pixels that reaches its threshold where the cap does not bind.
        cap: largest threshold.
        flip: see :class:`Choosy`.

    Raises:
        ValueError: a portion outside (0, 1] or a cap outside [0, 1].
    """

    portion: float = 0.5
    cap: float = 0.9

    def __post_init__(self) -> None:
        for name, value, least in (("portion", self.portion, 1e-9), ("cap", self.cap, 0.0)):
            if not least <= value <= 1:
                raise ValueError(f"pseudo_label.{name} must be a share of at most 1, got {value}")

    def empty(self, num_classes: int, device: torch.device) -> Tensor:
        """(K, bins) zeros for :meth:`count`."""
        return empty_histogram(num_classes, device=device)

    def count(
        self, histogram: Integer[Tensor, "K bins"], probability: Float[Tensor, "B K H W"]
    ) -> None:
        """Add, in place, the confidences of images to those of their predicted classes."""
        confidence, label = probability.max(dim=1)
        count_doubts(histogram, confidence, label)

    def thresholds(self, histogram: Integer[Tensor, "K bins"]) -> Float[Tensor, " K"]:
        """Confidence from which a pixel of each class is kept."""
        return top_thresholds(histogram, self.portion).clamp(max=self.cap)

    def labels(
        self, probability: Float[Tensor, "B K H W"], threshold: Float[Tensor, " K"]
    ) -> UInt8[Tensor, "B H W"]:
        """The most likely class of confident pixels, IGNORE of the others."""
        return confident_label(probability, threshold)
