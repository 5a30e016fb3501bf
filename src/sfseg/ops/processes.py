"""Tensors of several processes, whose batches may differ in size."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def are_several() -> bool:
    """Whether there are other processes than this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def of_each_process(value: Shaped[Tensor, "..."]) -> list[Tensor]:
    """A tensor of every process, in their order; the own one where there is only that.

    Every process calls it at the same time. Sides may differ, but not how many there are.
    """
    if not are_several():
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


def is_so_in_any(claim: bool, device: torch.device) -> bool:
    """Whether a claim is true in some process. Every process asks at the same time."""
    found = torch.tensor(float(claim), device=device)
    if are_several():
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def sum_of_processes(value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Sum of a tensor of one size over all processes, through which gradients pass."""
    total: Tensor = _Sum.apply(value) if are_several() else value
    return total


class _Sum(torch.autograd.Function):
    """What a process puts in counts in the losses of all."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _gathered(value: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.contiguous())
    return parts
