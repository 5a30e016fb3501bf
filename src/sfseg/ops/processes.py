"""Tensors of several processes, whose batches may differ in size."""

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def of_each_process(value: Shaped[Tensor, "..."]) -> list[Tensor]:
    """A tensor of every process, in their order; the own one where there is only that.

    Every process calls it at the same time. Sides may differ, but not how many there are.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    shape = torch.tensor(value.shape, device=value.device, dtype=torch.long)
    shapes = [part.tolist() for part in _gathered(shape)]
    largest = [max(sides) for sides in zip(*shapes, strict=True)]
    padded = value.new_zeros(largest)
    padded[tuple(map(slice, value.shape))] = value
    return [
        part[tuple(map(slice, sides))]
        for part, sides in zip(_gathered(padded), shapes, strict=True)
    ]


def _gathered(value: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.contiguous())
    return parts
