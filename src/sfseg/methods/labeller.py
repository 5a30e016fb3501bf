"""What chooses the pixels that get a pseudo-label, and what it has found out about all of them."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sfseg.ops.inference import Inference


class Labeller(Protocol):
    """Which pixels of a model's predictions become labels, given the predictions of all images.

    Predictions are counted in a histogram of whole numbers, to which every process adds those of
    its images: so thresholds do not depend on how many processes there are.
    """

    @property
    def keeps_all(self) -> bool:
        """Whether every pixel gets the most likely class, which needs no thresholds."""

    def protocol(self, inference: Inference) -> Inference:
        """How images are predicted, given how they are in evaluation."""

    def empty(self, classes: int, device: torch.device) -> Tensor:
        """A histogram of integers in which nothing is counted yet."""

    def count(self, histogram: Tensor, probability: Tensor) -> None:
        """Add pixels of probabilities (1, K, H, W) to a histogram, in place."""

    def thresholds(self, histogram: Tensor) -> Tensor:
        """What :meth:`labels` needs to know of all images."""

    def labels(self, probability: Tensor, threshold: Tensor) -> Tensor:
        """Labels (1, H, W), uint8, of probabilities (1, K, H, W); IGNORE for none."""


class Relabelled(NamedTuple):
    """What labels of all images were made by.

    share: of the pixels that have a label.
    histogram: of the predictions for all images; None where all pixels get a label.
    threshold: what the labeller found from it; likewise.
    """

    share: float
    histogram: Tensor | None
    threshold: Tensor | None
