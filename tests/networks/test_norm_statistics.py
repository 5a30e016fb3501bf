"""Equation (4) of SFDA against loops."""

import pytest
import torch
from torch import nn

from sfseg.networks.norm_statistics import NormStatistics


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    for module in made:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.mark.parametrize("reduction", ["paper_sum", "mean_per_channel"])
def test_distances_are_those_of_the_equation(reduction: str) -> None:
    net, x = network(), torch.rand(2, 3, 6, 5)
    with torch.no_grad(), NormStatistics(net, reduction).watch() as distances:
        net(x)
    inputs, expected = x, []
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            total = 0.0
            for c in range(4):
                values = inputs[:, c].flatten()
                mean = float(values.mean())
                variance = float(((values - mean) ** 2).mean())
                total += (mean - float(layer.running_mean[c])) ** 2
                total += (variance - float(layer.running_var[c])) ** 2
            expected.append(total if reduction == "paper_sum" else total / 4)
        inputs = layer(inputs).detach()
    assert [float(d.detach()) for d in distances] == pytest.approx(expected, rel=1e-4)


def test_distance_vanishes_for_what_the_statistics_are_of() -> None:
    net, x = network(), torch.rand(4, 3, 8, 8)
    inputs = net[0](x).detach()
    net[1].running_mean.copy_(inputs.mean((0, 2, 3)))
    net[1].running_var.copy_(inputs.var((0, 2, 3), correction=0))
    with NormStatistics(net).watch() as distances:
        net(x)
    assert distances[0] < 1e-8 < distances[1]


def test_hooks_are_gone_afterwards_and_nothing_moves() -> None:
    net = network()
    before = [b.clone() for b in net.buffers()]
    statistics = NormStatistics(net)
    with pytest.raises(KeyError), statistics.watch():
        raise KeyError
    with statistics.watch() as distances:
        pass
    net(torch.rand(2, 3, 6, 6))
    assert distances == []
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))


def test_layers_that_are_made_synchronised_are_still_watched() -> None:
    net, x = network(), torch.rand(2, 3, 6, 6)
    statistics = NormStatistics(net)
    with statistics.watch() as before:
        net(x)
    nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert isinstance(net[1], nn.SyncBatchNorm)
    with statistics.watch() as after:
        net(x)
    assert len(after) == 2
    torch.testing.assert_close(after, before)


def test_networks_without_statistics_and_unknown_reductions() -> None:
    assert not NormStatistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(4))).layers
    with pytest.raises(ValueError, match="reduction must be one of mean_per_channel, paper_sum"):
        NormStatistics(nn.BatchNorm2d(2), "sum")  # type: ignore[arg-type]
