"""Scores of two resolutions made one (Hoyer et al., HRDA, ECCV 2022, arXiv:2204.13132)."""

from collections.abc import Iterator

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from sfseg.ops.inference import resize, window_starts

Corner = tuple[int, int]
"""Row and column at which a window begins."""


def fused(
    context: Float[Tensor, "B K h w"],
    attention: Float[Tensor, "B k h w"],
    detail: Float[Tensor, "B K y x"],
    *,
    factor: int,
    corner: Corner = (0, 0),
) -> Float[Tensor, "B K H W"]:
    """What scale attention a makes of context and detail: up(a) detail + up((1 - a) context).

    Outside the window of the detail a is 0 (equation 9, and its mask in training). Since a is
    enlarged after that, the window's edge is soft.

    Args:
        context: logits of the whole image, made smaller.
        attention: a in [0, 1], of every class or one for all, in the same cells.
        detail: logits of a window in cells of the result.
        factor: cells of the result, H / h and W / w, along a side of a context's cell.
        corner: of the window in cells of the result, each a multiple of ``factor``, as are its
            sides.
    """
    rows, columns = context.shape[-2:]
    size = (rows * factor, columns * factor)
    top, left = corner
    tall, wide = detail.shape[-2:]
    border = (left, size[1] - left - wide, top, size[0] - top - tall)
    if any(border):
        inside = attention[
            ..., top // factor : (top + tall) // factor, left // factor : (left + wide) // factor
        ]
        attention = F.pad(inside, [side // factor for side in border])
    rest = resize((1 - attention) * context, size)
    return resize(attention, size) * F.pad(detail, border) + rest


def corners(size: tuple[int, int], window: tuple[int, int]) -> Iterator[Corner]:
    """Where windows of this size begin that overlap by half, row by row; the last ends at the edge.

    Args:
        size: height and width of the whole, at least those of the window.
        window: height and width.
    """
    for top in window_starts(size[0], window[0], max(1, window[0] // 2)):
        for left in window_starts(size[1], window[1], max(1, window[1] // 2)):
            yield top, left


def mean_of_windows(
    windows: list[Shaped[Tensor, "B K y x"]], begins: list[Corner], size: tuple[int, int]
) -> Float[Tensor, "B K H W"]:
    """The mean at every place of the windows that cover it, together all.

    Args:
        windows: of one size.
        begins: the corner of each.
        size: height and width of the whole.
    """
    first = windows[0]
    total = first.new_zeros(*first.shape[:2], *size)
    count = first.new_zeros(size)
    for values, (top, left) in zip(windows, begins, strict=True):
        rows, columns = (
            slice(begin, begin + side)
            for begin, side in zip((top, left), values.shape[-2:], strict=True)
        )
        total[..., rows, columns] += values
        count[rows, columns] += 1
    return total / count
