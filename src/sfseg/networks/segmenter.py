"""The model every method trains: pixels in, logits per pixel out."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """A backbone and a head behind one interface that accepts images of any size.

    The backbone has ``stride_multiple`` and returns feature maps at strides 4, 8, 16 and 32,
    the head has ``num_classes`` and turns the maps into logits at stride 4. Normalisation
    belongs to the model, so loaders hand over plain uint8 images.

    Args:
        backbone: images (B, 3, H, W) to a list of maps (B, C, H / stride, W / stride).
        head: that list to logits (B, K, H / 4, W / 4).
        mean: RGB mean of the pixels in [0, 1] that the backbone was pretrained with.
        std: their standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._frozen: set[str] = set()

    @property
    def num_classes(self) -> int:
        return cast(int, self.head.num_classes)

    def normalize(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Centred and scaled pixels; expects uint8 in 0..255 or floats in [0, 1]."""
        if not image.is_floating_point():
            image = image.to(self.mean.dtype) / 255
        return (image - self.mean) / self.std

    def features(self, image: Shaped[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Feature maps at strides 4, 8, 16 and 32 of the image, padded where it must be."""
        maps: list[Tensor] = self.backbone(self._pad(self.normalize(image)))
        return maps

    def forward(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the size of the image."""
        height, width = image.shape[-2:]
        padded = [side + self._missing(side) for side in (height, width)]
        logits: Tensor = self.head(self.features(image))  # (B, K, padded / 4, padded / 4)
        logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def freeze(self, *parts: nn.Module | str) -> "Segmenter":
        """Stops the training of parts, given as submodules or by their names.

        They receive no gradient and stay in eval mode when the segmenter is put in train mode:
        statistics of normalisation layers do not move, dropout and stochastic depth are off.

        Raises:
            ValueError: a part does not belong to this segmenter.
        """
        names = {module: name for name, module in self.named_modules()}
        for part in parts:
            name = part if isinstance(part, str) else names.get(part)
            if name is None or name not in names.values():
                shown = part if isinstance(part, str) else type(part).__name__
                raise ValueError(
                    f"parts must be submodules of the segmenter, got {shown}; "
                    f"give one of {', '.join(dict(self.named_children()))} or a name below them"
                )
            self.get_submodule(name).requires_grad_(False)
            self._frozen.add(name)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def _missing(self, side: int) -> int:
        return -side % cast(int, self.backbone.stride_multiple)

    def _pad(self, image: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 H W"]:
        # Bottom and right only, so that pixels keep their coordinates; 0 is the mean colour.
        bottom, right = (self._missing(side) for side in image.shape[-2:])
        return F.pad(image, (0, right, 0, bottom)) if bottom or right else image
