"""Two processes that talk to each other, played by two threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

SECONDS = 10


class TwoRanks:
    """Takes the place of torch's process group, and runs functions as if there were two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own, self.sent = threading.local(), {}
        self.barrier = threading.Barrier(2)
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "get_rank", lambda: self.own.rank)
        monkeypatch.setattr(dist, "all_gather", self._all_gather)
        monkeypatch.setattr(dist, "all_reduce", self._all_reduce)

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        """Results of both ranks, each called with its own argument."""

        def one(rank: int) -> Any:
            self.own.rank = rank
            try:
                return function(arguments[rank])
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    def _all_gather(self, parts: list[Tensor], value: Tensor) -> None:
        for part, sent in zip(parts, self._exchanged(value), strict=True):
            part.copy_(sent)

    def _all_reduce(self, value: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        both = torch.stack(self._exchanged(value))
        value.copy_(both.sum(dim=0) if op == dist.ReduceOp.SUM else both.amax(dim=0))

    def _exchanged(self, value: Tensor) -> list[Tensor]:
        self.sent[self.own.rank] = value.detach().clone()
        self.barrier.wait(SECONDS)
        parts = [self.sent[0], self.sent[1]]
        self.barrier.wait(SECONDS)
        assert parts[0].shape == parts[1].shape, "as a process group asks for"
        return parts
