"""Where a cell lies, told in waves (Carion et al., DETR, ECCV 2020)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 10_000
_EPS = 1e-6


def sine_position(
    size: tuple[int, int], channels: int, device: torch.device | None = None
) -> Float[Tensor, "C h w"]:
    """Sines and cosines, in turn, of the row, then as many of the column, of every cell of a map.

    Rows and columns count from 1 and are scaled so that the last is at 2 pi.

    Args:
        size: height and width of the map.
        channels: C, a multiple of 4.
        device: of the result.

    Raises:
        ValueError: another number of channels.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels}")
    half = channels // 2
    # In 32 bits, whatever is torch's default: 8 bits of a place are a whole cell of a wide map.
    wave = torch.arange(half, device=device)
    period = TEMPERATURE ** (2 * (wave // 2).float() / half)  # of each pair of a sine and a cosine
    waves = []
    for cells in size:
        place = torch.arange(1, cells + 1, device=device).float() / (cells + _EPS) * (2 * math.pi)
        angle = place[:, None] / period
        waves.append(torch.where(wave % 2 == 0, angle.sin(), angle.cos()).T)  # (half, cells)
    rows, columns = waves
    return torch.cat(
        [rows[:, :, None].expand(half, *size), columns[:, None, :].expand(half, *size)]
    )
