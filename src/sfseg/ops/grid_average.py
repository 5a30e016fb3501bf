"""Averages over a grid of windows, for maps whose size is a symbol."""

import torch
from jaxtyping import Float
from torch import Tensor


def grid_average(x: Float[Tensor, "B C H W"], grid: int) -> Float[Tensor, "B C G G"]:
    """What :class:`torch.nn.AdaptiveAvgPool2d` returns, by two matrix products.

    Exported, the layer keeps the windows of the example's size; here these follow from the map's.

    Args:
        x: the map, of any size, smaller than the grid too.
        grid: G, windows per side, which overlap where they do not divide it.
    """
    rows, columns = (_windows(cells, grid, x) for cells in (x.shape[2], x.shape[3]))
    return rows @ x @ columns.T


def _windows(cells: int, grid: int, like: Tensor) -> Float[Tensor, "G cells"]:
    """Weights of a side's cells in each window, which add up to 1."""
    window = torch.arange(grid, device=like.device)[:, None]
    cell = torch.arange(cells, device=like.device)
    # From floor(i n / G) to ceil((i + 1) n / G), as in torch, without a division.
    inside = ((cell + 1) * grid > window * cells) & (cell * grid < (window + 1) * cells)
    weights = inside.to(like.dtype)
    return weights / weights.sum(dim=1, keepdim=True)
