"""What the last visit of every image predicted, by which Uni-UVPT's code corrects pseudo-labels.

Before it trains on a crop of an image, it writes what the visit before has predicted, in the crop
of then, so that the step learns from it already. Thresholds are of the last visits of all images, a
confidence that equals one counts, a crop none of whose labels is of an open class stays as it is,
and a class is closed where something is measured.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from sfseg.ops.confidence import BINS, confidence_histogram
from sfseg.ops.padding import HEIGHT, WIDTH


class Visit(NamedTuple):
    """A crop of an image: where it lies, and what was predicted in it with which confidence."""

    geometry: Integer[Tensor, "9"]
    prediction: UInt8[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]


class LastVisits:
    """The last visit of every image, five bytes a pixel, and a histogram of all confidences.

    ``histogram`` counts pixels by predicted class and confidence, see
    :func:`sfseg.ops.confidence.confidence_histogram`.
    """

    def __init__(self) -> None:
        self._visits: dict[int, Visit] = {}
        self.histogram = torch.zeros(0, BINS, dtype=torch.int64)

    def begin(self, num_classes: int, device: torch.device, *, is_keeper: bool) -> None:
        """Count what a checkpoint has brought; only the process that keeps visits needs it."""
        self.histogram = torch.zeros(num_classes, BINS, dtype=torch.int64, device=device)
        if not is_keeper:
            self._visits.clear()
        for visit in self._visits.values():
            self.histogram += self._counts(visit.prediction, visit.confidence)

    def read(self, image: int) -> Visit | None:
        """The last visit of an image; None before the first."""
        return self._visits.get(image)

    def keep(self, index: Tensor, geometry: Tensor, prediction: Tensor, confidence: Tensor) -> None:
        """Put the visits of a step in place of those before them."""
        for k, image in enumerate(index.tolist()):
            if (before := self.read(image)) is not None:
                self.histogram -= self._counts(before.prediction, before.confidence)
            crop = np.s_[k, : int(geometry[k, HEIGHT]), : int(geometry[k, WIDTH])]
            self.histogram += self._counts(prediction[crop], confidence[crop])
            self._visits[image] = Visit(
                geometry[k].cpu(), prediction[crop].cpu(), confidence[crop].float().cpu()
            )

    def _counts(self, prediction: Tensor, confidence: Tensor) -> Integer[Tensor, "K bins"]:
        device, num_classes = self.histogram.device, len(self.histogram)
        return confidence_histogram(
            confidence.to(device), prediction.to(device), num_classes=num_classes
        )

    def state_dict(self) -> dict[int, list[Tensor]]:
        return {image: list(visit) for image, visit in self._visits.items()}

    def load_state_dict(self, state_dict: Mapping[int, Sequence[Tensor]]) -> None:
        # Checkpoints of earlier versions hold confidences in half precision.
        self._visits = {
            image: Visit(geometry, prediction, confidence.float())
            for image, (geometry, prediction, confidence) in state_dict.items()
        }
