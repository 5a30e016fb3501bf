"""Tensors of several processes, whose batches may differ in size."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

Item = TypeVar("Item")
Tensors = tuple[Tensor, ...]


def how_many() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def are_several() -> bool:
    """Whether there are other processes than this one."""
    return how_many() > 1


def is_first() -> bool:
    """Whether this is the process that writes what all share."""
    return not are_several() or dist.get_rank() == 0


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
    if not are_several():
        return claim
    found = torch.tensor(float(claim), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def in_step(items: Iterable[Item], device: torch.device) -> Iterator[Item | None]:
    """The items of this process, then None for as long as another one has more.

    All come for their next item at the same time, and speak to each other once an item: nobody
    waits for longer than the slowest needs for one, however many there are. An error on one process
    ends it, which the others notice when they next speak to it.
    """
    own = iter(items)
    while is_so_in_any((item := next(own, None)) is not None, device):
        yield item


def dealt(
    items: Iterable[Tensors], *kinds: tuple[int, torch.dtype], device: torch.device
) -> Iterator[Tensors]:
    """What every process has found, one process after the other, as all come to their next items.

    Where items are dealt to the processes in turn, they come in the order that they had before.

    Args:
        items: of this process, tensors whose sides may differ from item to item.
        *kinds: sides and type of each of these tensors; where a process has no item left, of no
            entries.
        device: of the tensors.
    """
    nothing = tuple(torch.zeros([0] * sides, dtype=kind, device=device) for sides, kind in kinds)
    for own in in_step(items, device):
        yield from zip(*map(of_each_process, nothing if own is None else own), strict=True)


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
