"""Stochastic depth: the numbers of timm's layer."""

import pytest
import torch
from timm.layers import DropPath as OfTimm

from sfseg.networks.layers import DropPath


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shape", [(8, 5, 4), (8, 3, 4, 4)])
def test_it_draws_what_timms_draws(probability: float, shape: tuple[int, ...]) -> None:
    branch = torch.randn(shape)
    for training in (True, False):
        seen = []
        for kind in (OfTimm, DropPath):
            torch.manual_seed(0)
            seen.append(kind(probability).train(training)(branch))
        assert torch.equal(*seen)
