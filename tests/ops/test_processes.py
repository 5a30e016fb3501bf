"""Tensors of several processes that differ in size; threads stand for processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from sfseg.ops.processes import of_each_process


@pytest.fixture
def two(monkeypatch):
    """Runs a function for each of two arguments, in threads that gather from each other."""
    barrier, own, sent = threading.Barrier(2), threading.local(), {}

    def all_gather(parts, value):
        sent[own.rank] = value
        barrier.wait(timeout=10)
        for rank, part in enumerate(parts):
            assert sent[rank].shape == part.shape, "as a back end asks for"
            part.copy_(sent[rank])
        barrier.wait(timeout=10)

    def run(function, arguments):
        def one(rank):
            own.rank = rank
            return function(arguments[rank])

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    return run


@pytest.mark.parametrize(
    "shapes", [((2, 3, 5), (2, 4, 1)), ((), ()), ((0, 4), (3, 4)), ((2, 3), (2, 3))]
)
def test_every_process_gets_all_tensors_at_their_own_size(two, shapes):
    values = [torch.randint(0, 255, shape, dtype=torch.uint8) for shape in shapes]
    for found in two(of_each_process, values):
        assert len(found) == 2
        for value, expected in zip(found, values, strict=True):
            assert value.dtype == torch.uint8 and torch.equal(value, expected)


def test_a_process_that_is_alone_keeps_its_tensor():
    value = torch.ones(2)
    (found,) = of_each_process(value)
    assert found is value
