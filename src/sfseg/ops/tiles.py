"""Large pictures tile by tile: memory follows the tile, not the picture.

Each tile is predicted with a margin that neighbours share; what a network says near the edge of a
tile, where it sees less, is not used. Scores are brought to the picture's own pixels a strip at a
time, and only the class and its probability are kept.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sfseg.ops.inference import Predict

MARGIN = 8
"""A margin is this part of a tile's side."""


class Span(NamedTuple):
    """Part of an axis, in pixels: what is looked at, and what of it is used."""

    start: int
    stop: int
    first: int
    last: int


def tiling(size: tuple[int, int], most: int) -> tuple[list[Span], list[Span]]:
    """Rows and columns of tiles of at most ``most`` pixels each, which cover a (height, width)."""
    height, width = size
    if most < MARGIN**2:
        raise ValueError(f"a tile must have at least {MARGIN**2} pixels, got {most}")
    if height * width <= most:
        return _spans(height, height, 0), _spans(width, width, 0)
    side = math.isqrt(most)
    tall = min(height, max(side, most // width))
    wide = min(width, most // tall)
    return _spans(height, tall, side // MARGIN), _spans(width, wide, side // MARGIN)


def _spans(length: int, window: int, margin: int) -> list[Span]:
    if window >= length:
        return [Span(0, length, 0, length)]
    count = math.ceil((length - 2 * margin) / (window - 2 * margin))
    starts = [round(k * (length - window) / (count - 1)) for k in range(count)]
    inner = [(before + window + after) // 2 for before, after in pairwise(starts)]
    edges = pairwise([0, *inner, length])
    return [Span(s, s + window, *edge) for s, edge in zip(starts, edges, strict=True)]


def predict_tiles(
    predict: Predict, image: Tensor, full: tuple[int, int], most: int
) -> tuple[UInt8[Tensor, "H W"], UInt8[Tensor, "H W"]]:
    """The most likely class at each pixel of a picture, and its probability times 255.

    Args:
        predict: the network, or an evaluation protocol around it.
        image: (1, 3, h, w), the picture as the network is to see it.
        full: (height, width) of the picture itself.
        most: pixels of a tile.
    """
    label, confidence = (torch.empty(full, dtype=torch.uint8) for _ in range(2))
    scale = full[0] / image.shape[-2], full[1] / image.shape[-1]
    rows, columns = tiling((image.shape[-2], image.shape[-1]), most)
    for row in rows:
        for column in columns:
            seen = image[..., row.start : row.stop, column.start : column.stop]
            logits = predict(seen)[0].float()  # (K, h, w) of the tile
            top, bottom = round(row.first * scale[0]), round(row.last * scale[0])
            left, right = round(column.first * scale[1]), round(column.last * scale[1])
            across = _places(left, right, scale[1], column)
            step = max(1, most // (4 * max(1, right - left)))
            for above in range(top, bottom, step):
                below = min(above + step, bottom)
                part = sampled(logits, _places(above, below, scale[0], row), across)
                probability, classes = part.softmax(dim=0).max(dim=0)
                label[above:below, left:right] = classes.to(torch.uint8)
                confidence[above:below, left:right] = (probability * 255).round().to(torch.uint8)
    return label, confidence


def sampled(
    scores: Float[Tensor, "K h w"], rows: Float[Tensor, " H"], columns: Float[Tensor, " W"]
) -> Float[Tensor, "K H W"]:
    """Bilinear values at rows and columns between pixel centres; outside, those of the edge."""
    for axis, places in ((1, rows), (2, columns)):
        last = scores.shape[axis] - 1
        at = places.clamp(0, last)
        before = at.long()
        share = (at - before).to(scores).reshape(-1, 1) if axis == 1 else (at - before).to(scores)
        near = scores.index_select(axis, before.to(scores.device))
        far = scores.index_select(axis, (before + 1).clamp(max=last).to(scores.device))
        scores = near.lerp_(far, share)
    return scores


def _places(first: int, last: int, scale: float, span: Span) -> Float[Tensor, " n"]:
    """Where the centres of the picture's pixels lie in a tile."""
    return (torch.arange(first, last, dtype=torch.float64) + 0.5) / scale - 0.5 - span.start
