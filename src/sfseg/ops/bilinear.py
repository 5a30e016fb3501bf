"""Bilinear samples of maps, by torch's own operation or by one that every runtime has."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_BY_GATHERING = ContextVar("_BY_GATHERING", default=False)


@contextmanager
def by_gathering() -> Iterator[None]:
    """Meanwhile samples are gathered: runtimes that have no GridSample have Gather."""
    token = _BY_GATHERING.set(True)
    try:
        yield
    finally:
        _BY_GATHERING.reset(token)


def sample(
    maps: Float[Tensor, "N C h w"], places: Float[Tensor, "N rows columns 2"]
) -> Float[Tensor, "N C rows columns"]:
    """What maps hold at places between their cells; outside is zero.

    Args:
        maps: of any size.
        places: x and y on the map, whose borders are -1 and 1.
    """
    if _BY_GATHERING.get():
        return gathered(maps, places)
    return F.grid_sample(maps, places, align_corners=False)


def gathered(
    maps: Float[Tensor, "N C h w"], places: Float[Tensor, "N rows columns 2"]
) -> Float[Tensor, "N C rows columns"]:
    """As :func:`sample`, from four cells of each place, which are looked up one by one."""
    height, width = maps.shape[-2:]
    x, y = places.flatten(1, 2).unbind(-1)  # (N, places)
    column, row = (x + 1) * (width / 2) - 0.5, (y + 1) * (height / 2) - 0.5
    left, top = column.floor(), row.floor()
    cells = maps.flatten(2)
    result = torch.zeros_like(cells[..., :1])
    for down in (0, 1):
        for along in (0, 1):
            i, j = top + down, left + along
            weight = (1 - (row - i).abs()) * (1 - (column - j).abs())
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            index = i.clamp(0, height - 1) * width + j.clamp(0, width - 1)
            index = index.long()[:, None].expand(-1, cells.shape[1], -1)
            result = result + cells.gather(2, index) * (weight * inside)[:, None]
    return result.view(*maps.shape[:2], *places.shape[1:3])
