"""A moving average of a network: what it takes over, and how fast."""

import pytest
import torch
from torch import nn

from sfseg.networks.teacher import Frozen, Teacher


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def moved(network: nn.Module) -> nn.Module:
    """After a step and an image: other weights, other running statistics."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
        network.train()(torch.randn(2, 3, 4, 4))
    return network


@pytest.mark.parametrize("momentum", [0.75, 0.0, 1.0])
def test_weights_follow_and_buffers_are_copied(momentum: float) -> None:
    network = student()
    teacher = Teacher(network)
    before = [p.clone() for p in teacher.parameters()]
    moved(network)
    assert network[1].running_mean.any() and not teacher.network[1].running_mean.any()
    teacher.follow(network, momentum)
    rows = zip(teacher.parameters(), before, network.parameters(), strict=True)
    for mine, old, theirs in rows:
        torch.testing.assert_close(mine, momentum * old + (1 - momentum) * theirs)
    buffers = dict(network.named_buffers())
    assert set(buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for name, mine in teacher.network.named_buffers():
        assert torch.equal(mine, buffers[name]), name


def test_a_copy_shares_nothing_and_stays_in_eval_mode() -> None:
    network = student()
    frozen = Frozen(network).train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen(torch.randn(2, 3, 4, 4))
    moved(network)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters())
