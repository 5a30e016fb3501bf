"""From an image to logits: whole or by sliding window, at several scales, mirrored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from sfseg.types import size_text

Predict = Callable[[Tensor], Tensor]
"""(B, 3, H, W) image to (B, K, H, W) logits."""


@dataclass(frozen=True)
class Inference:
    """:func:`infer` with its settings filled in and checked.

    Raises:
        ValueError: no or non-positive scales, a stride without window or larger than it.
    """

    window: Sequence[int] | None = None
    stride: Sequence[int] | None = None
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive factors, got {list(self.scales)}")
        if self.window is None:
            if self.stride is not None:
                raise ValueError(f"stride {list(self.stride)} needs a window; set window")
            return
        if len(self.window) != 2 or min(self.window) < 1:
            raise ValueError(f"window must be (height, width), got {list(self.window)}")
        if self.stride is not None and not all(
            1 <= step <= side for step, side in zip(self.stride, self.window, strict=True)
        ):
            raise ValueError(
                f"stride must be in [1, window {list(self.window)}], got {list(self.stride)}"
            )

    def __str__(self) -> str:
        shown = "whole images" if self.window is None else f"windows of {size_text(self.window)}"
        if self.stride is not None:
            shown += f" every {size_text(self.stride)}"
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        return f"{shown} at scale {scales}" + (", mirrored too" if self.flip else "")

    def __call__(self, predict: Predict, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) at image size."""
        return infer(
            predict,
            image,
            window=self.window,
            stride=self.stride,
            scales=self.scales,
            flip=self.flip,
        )


def infer(
    predict: Predict,
    image: Tensor,
    *,
    window: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Float[Tensor, "B K H W"]:
    """Logits at image size under an evaluation protocol.

    Several views (scales, mirror images) are averaged as probabilities; the result is their
    logarithm, so that ``softmax`` of what is returned is the probability in every case.

    Args:
        predict: the network.
        image: (B, 3, H, W), uint8 in 0..255 or float in [0, 1].
        window: (height, width) of a sliding window in pixels of the scaled image; None shows
            the whole image at once.
        stride: step of the window; None is two thirds of it.
        scales: factors of the image size.
        flip: also use the mirror image at every scale.
    """

    def one_view(view: Tensor) -> Tensor:
        if window is None:
            return predict(view)
        return slide(predict, view, window, stride)

    size = (image.shape[-2], image.shape[-1])
    if list(scales) == [1.0] and not flip:
        return one_view(image)
    total: Tensor | None = None
    for scale in scales:
        scaled = image if scale == 1 else _rescale(image, scale)
        for mirrored in (False, True) if flip else (False,):
            logits = one_view(scaled.flip(-1) if mirrored else scaled)
            logits = resize(logits.flip(-1) if mirrored else logits, size)
            probability = logits.float().softmax(dim=1)
            total = probability if total is None else total + probability
    assert total is not None
    views = len(scales) * (2 if flip else 1)
    return (total / views).clamp_min(torch.finfo(torch.float32).tiny).log()


def slide(
    predict: Predict,
    image: Tensor,
    window: Sequence[int],
    stride: Sequence[int] | None = None,
) -> Float[Tensor, "B K H W"]:
    """Mean logits of overlapping windows; a window larger than the image shows all of it.

    The last window of each row and column ends at the image's edge, so none is padded.
    """
    height, width = image.shape[-2:]
    tall, wide = min(window[0], height), min(window[1], width)
    step = tuple(stride) if stride is not None else (math.ceil(tall / 1.5), math.ceil(wide / 1.5))
    if min(step) < 1 or step[0] > window[0] or step[1] > window[1]:
        raise ValueError(f"stride must be in [1, window {list(window)}], got {list(step)}")
    total: Tensor | None = None
    count = torch.zeros(1, 1, height, width, device=image.device)
    for top in window_starts(height, tall, step[0]):
        for left in window_starts(width, wide, step[1]):
            rows, columns = slice(top, top + tall), slice(left, left + wide)
            logits = predict(image[..., rows, columns]).float()
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., rows, columns] += logits
            count[..., rows, columns] += 1
    assert total is not None
    return total / count


def resize(logits: Tensor, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Bilinear resize to (height, width); the same tensor when it has that size."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def label_map(logits: Float[Tensor, "B K H W"], size: tuple[int, int]) -> UInt8[Tensor, "B h w"]:
    """Most likely class at every pixel of a (height, width) map."""
    return most_likely(resize(logits.float(), size)).to(torch.uint8)


def most_likely(scores: Float[Tensor, "B K *N"]) -> Int64[Tensor, " B *N"]:
    """The class of the largest score at each position, the first of equals.

    As ``argmax(dim=1)``, which takes torch three to four times as long on a processor.
    """
    return scores.max(dim=1).indices


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin along a side; the last one ends at its end."""
    starts = list(range(0, length - window, step))
    return [*starts, length - window]


def _rescale(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    if image.dtype == torch.uint8:
        image = image.float() / 255
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
