"""States of a network that end with a block of code."""

import pytest
import torch
from torch import nn

from sfseg.modes import evaluating, held


def test_held_modules_pass_gradients_on() -> None:
    layer, x = nn.Linear(2, 2), torch.rand(1, 2, requires_grad=True)
    layer.bias.requires_grad_(False)
    with held(layer):
        layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_parts_are_in_their_own_modes_again() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2))
    net[1].eval()
    with pytest.raises(KeyError), evaluating(net):
        assert not any(part.training for part in net.modules())
        raise KeyError
    assert [part.training for part in net.modules()] == [True, True, False]
