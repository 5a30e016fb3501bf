"""Depthwise convolutions with gaps, for processors, whose libraries are slow at them."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHANNELS = 128
"""Worked on at a time: copies stay in the cache, and pixels do not lie 4096 bytes apart."""


def dilated_depthwise(
    x: Float[Tensor, "B C H W"], weight: Float[Tensor, "C 1 3 3"], dilation: int
) -> Float[Tensor, "B C H W"]:
    """A depthwise 3x3 convolution that keeps the size of the map, with gaps and zeros around it.

    A dilation d looks only at every d-th pixel, so the d x d interleaved sub-images do not meet:
    they are laid out as images of their own and convolved without gaps. The result is equal;
    forward and backward take 0.1 to 0.65 of the time of PyTorch's own on one core, and of the map
    and its sub-images only the map is kept for the gradient.

    Args:
        x: the map; in channels-last order nothing is rearranged pixel by pixel.
        weight: of the type of the map.
        dilation: pixels from one tap to the next.
    """
    return cast(Tensor, _Dilated.apply(x, weight, dilation))


class _Dilated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        result = torch.empty_like(x)
        for part, target, taps in _pieces([x, result], [weight]):
            images = _interleaved(part, dilation)
            convolved = F.conv2d(images, taps, padding=1, groups=len(taps))
            _write(target, convolved, dilation)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
        pieces = _pieces([x, gradient, of_x], [weight, of_weight])
        for part, slope, target, taps, of_taps in pieces:
            images, slopes = (_interleaved(y, ctx.dilation) for y in (part, slope))
            of_images, found, _ = torch.ops.aten.convolution_backward(
                slopes, images, taps, None, (1, 1), (1, 1), (1, 1), False, (0, 0), len(taps),
                (True, True, False),
            )  # fmt: skip
            _write(target, of_images, ctx.dilation)
            of_taps.copy_(found)
        return of_x, of_weight, None


def _pieces(maps: Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Some channels at a time of maps (B, C, H, W), then of weights (C, 1, 3, 3)."""
    parts = [torch.split(x, _CHANNELS, dim=1) for x in maps]
    return zip(*parts, *(torch.split(x, _CHANNELS) for x in weights), strict=True)


def _interleaved(x: Float[Tensor, "B C H W"], gap: int) -> Float[Tensor, "N C h w"]:
    """The gap * gap sub-images of every image, filled up with zeros to one size."""
    height, width = x.shape[2:]
    if height % gap or width % gap:
        x = F.pad(x, (0, -width % gap, 0, -height % gap))
    batch, channels, height, width = x.shape
    cells = x.view(batch, channels, height // gap, gap, width // gap, gap)
    return cells.permute(0, 3, 5, 2, 4, 1).flatten(0, 2).permute(0, 3, 1, 2)


def _write(target: Float[Tensor, "B C H W"], images: Float[Tensor, "N C h w"], gap: int) -> None:
    """Put sub-images back where their pixels came from."""
    batch, channels, height, width = target.shape
    rows, columns = images.shape[2:]
    cells = images.view(batch, gap, gap, channels, rows, columns).permute(0, 3, 4, 1, 5, 2)
    if (height, width) == (rows * gap, columns * gap):
        target.view(batch, channels, rows, gap, columns, gap).copy_(cells)
    else:
        target.copy_(cells.flatten(4).flatten(2, 3)[..., :height, :width])
