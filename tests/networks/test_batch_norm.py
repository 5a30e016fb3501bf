"""Running statistics moved by a batch, against statistics of what enters each layer."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks import batch_norm
from sfseg.networks.batch_norm import (
    own_statistics,
    passing_by,
    reestimate,
    require_moving_statistics,
    tracking_norms,
    use_batch_statistics,
)
from sfseg.networks.segmenter import Segmenter


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stride_multiple = 1
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, momentum=0.3), nn.ReLU(),
            nn.BatchNorm2d(5, track_running_stats=False),
        )  # fmt: skip

    def forward(self, image):
        return [self.layers(image)]


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_classes = 3
        self.classifier = nn.Conv2d(5, 3, 1)

    def forward(self, maps):
        return self.classifier(maps[0])


def network(**options):
    torch.manual_seed(0)
    made = Segmenter(Backbone(), Head(), **options)
    for norm in tracking_norms(made):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return made


def images(seed=1):
    return torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def inputs(model, image):
    """What enters each layer that tracks statistics, values of a channel in a row."""
    found = []

    def keep(module, arguments):
        found.append(arguments[0].detach().transpose(0, 1).flatten(1))

    hooks = [norm.register_forward_pre_hook(keep) for norm in tracking_norms(model)]
    logits = reestimate(model, image, momentum=0.0)
    for hook in hooks:
        hook.remove()
    return found, logits


@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0])
def test_statistics_move_by_the_momentum(momentum):
    model, image = network(), images()
    before = [(n.running_mean.clone(), n.running_var.clone()) for n in tracking_norms(model)]
    weights = [p.clone() for p in model.parameters()]
    seen, logits = inputs(model, image)
    moved = reestimate(model, image, momentum=momentum)
    assert torch.equal(moved, logits) and not moved.requires_grad  # dropout would draw anew
    for norm, values, (mean, variance) in zip(tracking_norms(model), seen, before, strict=True):
        towards = momentum * values.mean(dim=1) + (1 - momentum) * mean
        torch.testing.assert_close(norm.running_mean, towards)
        towards = momentum * values.var(dim=1) + (1 - momentum) * variance
        torch.testing.assert_close(norm.running_var, towards)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert [norm.momentum for norm in tracking_norms(model)] == [0.1, 0.3]


def test_only_batch_normalisation_is_in_train_mode():
    model = network().eval()
    use_batch_statistics(model)
    training = [module for module in model.modules() if module.training]
    assert training == tracking_norms(model) and len(training) == 2


def test_the_momentum_comes_back_after_an_error():
    model = network()
    with pytest.raises(RuntimeError):
        reestimate(model, images()[:, :2], momentum=0.5)
    assert [norm.momentum for norm in tracking_norms(model)] == [0.1, 0.3]


def test_statistics_of_two_processes_are_those_of_all_images(monkeypatch):
    values = [
        k + 3 * torch.randn(4, pixels, dtype=torch.double) for k, pixels in ((0, 30), (1, 10))
    ]
    mine, other = ((v.mean(dim=1), v.var(dim=1, correction=0)) for v in values)
    everything = torch.cat(values, dim=1)
    mean, variance = everything.mean(dim=1), everything.var(dim=1, correction=0)
    # The second process has seen a third as much; both say how much, and what, weighted.
    answers = [torch.tensor(10.0), 0.5 * other[0], 0.5 * (other[1] + (other[0] - mean).square())]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.add_(answers.pop(0)))
    given = [part.clone() for part in mine]
    found = batch_norm._of_all_processes(*given, pixels=30)
    torch.testing.assert_close(found, (mean, variance))
    torch.testing.assert_close(tuple(given), mine)


@pytest.mark.parametrize("policy", ["frozen_statistics", "frozen"])
def test_statistics_that_are_to_stay_are_refused(policy):
    refuse = partial(require_moving_statistics, method="tent")
    with pytest.raises(ConfigError, match=rf"train or frozen_affine for tent, .* got {policy}"):
        refuse(network(batch_norm=policy))
    for free in ("train", "frozen_affine"):
        refuse(network(batch_norm=free))


def test_own_statistics_are_used_and_forgotten():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), nn.BatchNorm2d(2))
    net[2].eval()
    before = [b.clone() for b in net.buffers()]
    net = net.double()
    x = 3 + torch.randn(4, 2, 5, 5, dtype=torch.float64)
    with own_statistics(net):
        found = net(x)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    own = (x - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(found, own / (1 + 1e-5) ** 0.5, rtol=1e-4, atol=1e-4)
    assert all(a.equal(b) for a, b in zip(before, net.buffers(), strict=True))
    assert [m.training for m in net.modules()] == [True, True, True, False]
    assert net[0].track_running_stats


@pytest.mark.parametrize("statistics", ["own", "running"])
def test_images_pass_statistics_by(statistics):
    model, image = network().train(), images()
    model.backbone.layers[3].eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with passing_by(model, statistics):
        logits = model(image)
    assert all(torch.equal(buffer, before[n]) for n, buffer in model.named_buffers())
    assert model.training and not model.backbone.layers[3].training
    model.eval()
    assert torch.equal(logits, model(image)) == (statistics == "running")
