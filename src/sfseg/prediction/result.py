"""What a network has seen in a picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from sfseg.labels import Colour
from sfseg.report.drawing import Pixels, overlay
from sfseg.report.predictions import indexed


@dataclass(frozen=True, eq=False)
class Result:
    """The classes of a picture's pixels. What is drawn of them is drawn when it is asked for.

    image: (H, W, 3) RGB, the picture, upright.
    label: (H, W) uint8, position of the class in ``classes``.
    certainty: (H, W) uint8, ``confidence`` times 255, as ``sfseg-predict`` writes it.
    classes: names.
    palette: their colours, RGB in 0..255.
    """

    image: Pixels = field(repr=False)
    label: Pixels = field(repr=False)
    certainty: Pixels = field(repr=False)
    classes: tuple[str, ...]
    palette: tuple[Colour, ...] = field(repr=False)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(H, W) probability of the class in [0, 1], in steps of 1/255."""
        return np.divide(self.certainty, 255, dtype=np.float32)

    @cached_property
    def overlay(self) -> PILImage.Image:
        """The colours of the classes over the picture."""
        return PILImage.fromarray(overlay(self.image, self.label, self.palette))

    @cached_property
    def colours(self) -> PILImage.Image:
        """The label map as a palette image: ids that viewers show in the classes' colours."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = self.palette
        return indexed(self.label, table)

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """The share of the pixels that each class has, in [0, 1]; all together 1."""
        counts = np.bincount(self.label.ravel(), minlength=len(self.classes))
        return {name: float(counts[k]) / self.label.size for k, name in enumerate(self.classes)}
