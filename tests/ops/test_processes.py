"""Tensors of several processes that differ in size."""

import pytest
import torch
from ranks import TwoRanks

from sfseg.ops.processes import are_several, is_so_in_any, of_each_process, sum_of_processes


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
    cpu = torch.device("cpu")
    found = TwoRanks(monkeypatch).run(lambda claim: is_so_in_any(claim, cpu), claims)
    assert found == [any(claims)] * 2


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
