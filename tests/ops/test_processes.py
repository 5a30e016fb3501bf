"""Tensors of several processes that differ in size."""

import threading

import pytest
import torch
from ranks import TwoRanks

from sfseg.ops.processes import (
    are_several,
    dealt,
    how_many,
    in_step,
    is_first,
    is_so_in_any,
    of_each_process,
    sum_of_processes,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "shapes", [((2, 3, 5), (2, 4, 1)), ((), ()), ((0, 4), (3, 4)), ((2, 3), (2, 3))]
)
def test_every_process_gets_all_tensors_at_their_own_size(monkeypatch, shapes):
    values = [torch.randint(0, 255, shape, dtype=torch.uint8) for shape in shapes]
    for found in TwoRanks(monkeypatch).run(of_each_process, values):
        assert len(found) == 2
        for value, expected in zip(found, values, strict=True):
            assert value.dtype == torch.uint8 and torch.equal(value, expected)


@pytest.mark.parametrize("claims", [(False, False), (True, False), (False, True)])
def test_one_process_is_enough_for_a_claim(monkeypatch, claims):
    found = TwoRanks(monkeypatch).run(lambda claim: is_so_in_any(claim, CPU), claims)
    assert found == [any(claims)] * 2


@pytest.mark.parametrize("shares", [("abc", "de"), ("", "d"), ("", ""), ("a", "b")])
def test_processes_come_for_their_next_items_together(monkeypatch, shares):
    found = TwoRanks(monkeypatch).run(lambda own: list(in_step(own, CPU)), shares)
    longest = max(map(len, shares))
    assert found == [[*own, *[None] * (longest - len(own))] for own in shares]


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_what_was_dealt_in_turn_comes_back_in_order(monkeypatch, count):
    items = [(torch.tensor([k]), torch.full((1, k + 1, 3), k)) for k in range(count)]
    kinds = (1, torch.long), (3, torch.long)

    def run(own):
        found = dealt(own, *kinds, device=CPU)
        return [part for parts in found if len(parts[0]) for part in parts]

    for found in TwoRanks(monkeypatch).run(run, [items[0::2], items[1::2]]):
        for part, expected in zip(found, [p for parts in items for p in parts], strict=True):
            assert torch.equal(part, expected)


def test_an_error_of_one_process_ends_the_others_wait(monkeypatch):
    def broken(own):
        yield from own[:1]
        if len(own) == 2:
            raise ValueError("broken")
        yield from own[1:]

    with pytest.raises((ValueError, threading.BrokenBarrierError)):
        TwoRanks(monkeypatch).run(lambda own: list(in_step(broken(own), CPU)), ["ab", "cde"])


def test_one_of_several_processes_is_the_first(monkeypatch):
    assert is_first() and how_many() == 1
    two = TwoRanks(monkeypatch)
    assert two.run(lambda _: (is_first(), how_many()), [0, 1]) == [(True, 2), (False, 2)]


def test_gradients_of_a_sum_come_from_the_losses_of_all(monkeypatch):
    """Of 2 s on the one process and 5 s on the other, s = a + b."""

    def gradient(pair):
        value = torch.full((3,), pair[0], requires_grad=True)
        total = sum_of_processes(value)
        (pair[1] * total).sum().backward()
        return total.detach(), value.grad

    for total, found in TwoRanks(monkeypatch).run(gradient, [(1.0, 2.0), (10.0, 5.0)]):
        assert torch.equal(total, torch.full((3,), 11.0))
        assert torch.equal(found, torch.full((3,), 7.0))


def test_a_process_that_is_alone_keeps_its_tensor():
    value = torch.ones(2)
    (found,) = of_each_process(value)
    assert found is value and sum_of_processes(value) is value
    assert not are_several() and is_so_in_any(True, value.device)
