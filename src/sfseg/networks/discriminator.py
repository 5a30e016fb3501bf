"""Fully convolutional discriminator of predictions (AdaptSegNet, Tsai et al., CVPR 2018)."""

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.checks import require_whole
from sfseg.types import size_text

HALVINGS = 5
SMALLEST = 1 << HALVINGS
"""Side in pixels of the smallest map that gives a verdict."""


class Discriminator(nn.Module):
    """Which domain each part of a prediction comes from.

    Five convolutions of 4x4 pixels halve the maps; four are followed by a leaky ReLU of slope 0.2.
    There is no normalisation: the verdict on an image does not depend on the others of its batch.

    Args:
        num_classes: channels of a prediction.
        width: of the first maps; those before the verdict are 8 times as wide.

    Raises:
        ValueError: a number that is not positive.
    """

    def __init__(self, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        require_whole(1, num_classes=num_classes, width=width)
        layers: list[nn.Module] = []
        for before, after in pairwise((num_classes, width, 2 * width, 4 * width, 8 * width)):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(8 * width, 1, 4, stride=2, padding=1)

    def forward(self, maps: Float[Tensor, "B K H W"]) -> Float[Tensor, "B 1 h w"]:
        """Verdicts as logits, one for every 32x32 pixels.

        Of maps with a side of fewer pixels, as odd pictures of a set may have them, the border is
        continued to that size.
        """
        missing = [max(0, SMALLEST - side) for side in maps.shape[-2:]]
        if any(missing):
            maps = F.pad(maps, (0, missing[1], 0, missing[0]), mode="replicate")
        maps = maps.to(self.classifier.weight.dtype)
        return cast(Tensor, self.classifier(self.layers(maps)))

    @staticmethod
    def require_fitting(size: tuple[int, int] | None, *, setting: str) -> None:
        """Refuse crops that are too small for a verdict.

        Args:
            size: of crops (height, width); None: as the pictures are.
            setting: what sets it, for the message.

        Raises:
            ValueError: a side of fewer than 32 pixels.
        """
        if size is not None and min(size) < SMALLEST:
            raise ValueError(
                f"crops must be at least {SMALLEST}x{SMALLEST} pixels, which a discriminator "
                f"halves {HALVINGS} times, got {size_text(size)}; set {setting}=[height,width], "
                "or enlarge the pictures"
            )
