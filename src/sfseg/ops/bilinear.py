"""Bilinear samples of maps, by torch's own operation or by one that every runtime has."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CORNERS = ((0, 0, 1, 1), (0, 1, 0, 1))
"""Steps down and along, to each of four cells."""
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
    # The four cells around a place: (N, 4, places).
    down, along = (torch.tensor(steps, device=maps.device)[:, None] for steps in CORNERS)
    i, j = row.floor()[:, None] + down, column.floor()[:, None] + along
    weight = (1 - (row[:, None] - i).abs()) * (1 - (column[:, None] - j).abs())
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    index = i.clamp(0, height - 1) * width + j.clamp(0, width - 1)
    index = index.long().flatten(1)[:, None].expand(-1, maps.shape[1], -1)
    found = maps.flatten(2).gather(2, index).view(*maps.shape[:2], *weight.shape[1:])
    result = (found * (weight * inside)[:, None]).sum(dim=2)
    return result.view(*maps.shape[:2], *places.shape[1:3])
