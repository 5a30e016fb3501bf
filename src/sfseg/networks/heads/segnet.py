"""The head of SegNet: VGG's encoder in reverse."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfseg.networks.heads.head import Head
from sfseg.networks.layers import conv_bn_relu, require_vgg


class SegNetHead(Head):
    """Decoder that puts values where the encoder's maxima were.

    SegNet (Badrinarayanan et al., TPAMI 2017, arXiv:1511.00561) needs no finer map for its edges:
    it remembers where each maximum came from. The positions are found again here, by pooling
    the encoder's maps once more. Every convolution of the encoder has its mirror image; that of
    the very first gives the logits.

    Args:
        in_channels: widths of VGG's six maps.
        num_classes: number of logits per pixel.
        depths: convolutions of each stage of the encoder, finest first; VGG-16's by default.

    Raises:
        ValueError: the maps are not VGG's, or there is not one positive depth per stage.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        depths: Sequence[int] = (2, 2, 3, 3, 3),
    ) -> None:
        super().__init__()
        require_vgg(in_channels, head="segnet", backbone="vgg16_segnet")
        widths = in_channels[:5]
        if len(depths) != len(widths) or min(depths) < 1:
            raise ValueError(f"depths must be five positive integers, got {list(depths)}")
        self.num_classes = num_classes
        self.stages = nn.ModuleList(
            _stage(width, finer, depth)
            for width, finer, depth in zip(widths, (None, *widths[:-1]), depths, strict=True)
        )
        self.classifier = nn.Conv2d(widths[0], num_classes, kernel_size=3, padding=1)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """Features of the size of the image, as are logits; ``maps`` end with the pooled one."""
        *stages, x = maps
        for decode, feature in zip(reversed(self.stages), reversed(stages), strict=True):
            _, positions = F.max_pool2d(feature.detach(), 2, return_indices=True)
            x = decode(_unpool(x, positions, feature.shape[-2:]))
        return x


def _stage(width: int, finer: int | None, depth: int) -> nn.Sequential:
    """Ends as wide as the next finer stage; the finest stage leaves its end to the classifier."""
    widths = [width] * depth if finer is None else [width] * depth + [finer]
    return nn.Sequential(
        *(conv_bn_relu(before, after, kernel_size=3) for before, after in pairwise(widths))
    )


def _unpool(
    pooled: Float[Tensor, "B C h w"], positions: Int[Tensor, "B C h w"], size: Sequence[int]
) -> Float[Tensor, "B C H W"]:
    # F.max_unpool2d refuses to run under trainer.deterministic=true; no position occurs twice,
    # so this is deterministic.
    image = pooled.new_zeros(*pooled.shape[:2], size[0] * size[1])
    image = image.scatter(2, positions.flatten(2), pooled.flatten(2))
    return image.view(*pooled.shape[:2], *size)
