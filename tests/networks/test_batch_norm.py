"""Running statistics moved by a batch, against statistics of what enters each layer."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from ranks import TwoRanks
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks import batch_norm, norm_of_pictures
from sfseg.networks.batch_norm import (
    own_statistics,
    passing_by,
    reestimate,
    require_moving_statistics,
    tracking_norms,
    use_batch_statistics,
)
from sfseg.networks.norm_of_pictures import statistics_of_pictures
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


def padded(sizes, canvas=(6, 8), seed=2):
    """Pictures in the corner of larger images of noise, and which pixels they have."""
    image = 5 * torch.rand(len(sizes), 3, *canvas, generator=torch.Generator().manual_seed(seed))
    valid = torch.zeros(len(sizes), *canvas, dtype=torch.bool)
    for k, (height, width) in enumerate(sizes):
        valid[k, :height, :width] = True
    return image, valid


SIZES = [(6, 3), (4, 8), (1, 1)]


def test_statistics_are_those_of_the_pictures_pixel_by_pixel():
    """All pictures in a row, without padding, is what every layer has seen."""
    image, valid = padded(SIZES)
    row = image.transpose(0, 1)[:, valid][None, :, None]  # (1, 3, 1, N)
    model, expected = network(), network()
    use_batch_statistics(model)
    use_batch_statistics(expected)
    with statistics_of_pictures(model, valid):
        logits = model(image)
    alone = expected(row)
    torch.testing.assert_close(logits.transpose(0, 1)[:, valid], alone[0, :, 0])
    for mine, theirs in zip(model.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    weight = torch.rand_like(alone)
    (logits.transpose(0, 1)[:, valid] * weight[0, :, 0]).sum().backward()
    (alone * weight).sum().backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    assert [n.training for n in tracking_norms(model)] == [True, True]


def test_statistics_move_by_the_momentum_of_a_layer_or_are_the_mean_of_all():
    model, expected = network(), network()
    for made in (model, expected):
        made.backbone.layers[1].momentum = None
        made.train()
    for seed in range(3):
        image, valid = padded(SIZES, seed=seed)
        row = image.transpose(0, 1)[:, valid][None, :, None]
        torch.manual_seed(0)  # dropout draws for other shapes
        with statistics_of_pictures(model, valid):
            model(image)
        expected(row)
    torch.testing.assert_close(
        model.backbone.layers[1].running_var, expected.backbone.layers[1].running_var
    )
    assert int(model.backbone.layers[1].num_batches_tracked) == 3


def test_reestimated_statistics_leave_padding_out():
    image, valid = padded(SIZES)
    row = image.transpose(0, 1)[:, valid][None, :, None]
    model, expected = network(), network()
    logits = reestimate(model, image, momentum=0.25, valid=valid)
    alone = reestimate(expected, row, momentum=0.25)
    torch.testing.assert_close(logits.transpose(0, 1)[:, valid], alone[0, :, 0])
    for mine, theirs in zip(model.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_batches_without_padding_and_running_statistics_are_left_to_torch():
    image, valid = padded(SIZES)
    fixed = network(batch_norm="frozen_statistics").train()
    del fixed.backbone.layers[-1]  # has no other statistics than the batch's
    for part, seen in ((fixed, valid), (network().train(), None)):
        other = deepcopy(part)
        torch.manual_seed(0)
        with statistics_of_pictures(part, seen):
            logits = part(image)
        torch.manual_seed(0)
        assert torch.equal(logits, other(image))
        assert all(torch.equal(a, b) for a, b in zip(part.buffers(), other.buffers(), strict=True))


def test_everything_is_as_before_after_an_error():
    model, (image, valid) = network().train(), padded(SIZES)
    before = list(model.buffers())
    with pytest.raises(RuntimeError), statistics_of_pictures(model, valid):
        model(image[:, :2])
    assert all(a is b for a, b in zip(before, model.buffers(), strict=True))
    assert all(norm.training for norm in tracking_norms(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_maps_of_a_coarser_grid_count_cells_by_their_centres():
    """Cells of 2 x 2 pixels; of 5 x 7, the third row and the fourth column have their centre out.

    The network pads to 6 x 8. A map of one cell counts once for each image.
    """
    model = network().train()
    model.backbone.stride_multiple = 2
    model.backbone.layers[0] = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 1))
    image, valid = padded([(5, 4), (2, 7)], (5, 7))
    seen = []
    norm = model.backbone.layers[1]
    norm.momentum = 1.0
    model.backbone.layers[0].register_forward_hook(lambda *part: seen.append(part[-1].detach()))
    with statistics_of_pictures(model, valid):
        model(image)
    maps = seen[0]
    assert maps.shape[-2:] == (3, 4)
    cells = [maps[0, :, :2, :2].flatten(1), maps[1, :, :1, :3].flatten(1)]
    values = torch.cat(cells, dim=1)
    torch.testing.assert_close(norm.running_mean, values.mean(dim=1))
    torch.testing.assert_close(norm.running_var, values.var(dim=1))
    model.backbone.layers[0].append(nn.AdaptiveAvgPool2d(1))
    with statistics_of_pictures(model, valid):
        model(image)
    torch.testing.assert_close(norm.running_mean, seen[1].mean(dim=(0, 2, 3)))


def test_a_compiled_network_runs_as_it_was_written():
    model, (image, valid) = network().train(), padded(SIZES)
    ran = []
    model._compiled_call_impl = lambda *arguments: ran.append(1) or model.forward(*arguments)
    with statistics_of_pictures(model, valid):
        model(image)
    assert not ran
    model(image)
    assert ran


def test_layers_that_are_computed_again_see_padding_and_say_so(caplog):
    model, (_, valid) = network().train(), padded(SIZES)
    model.backbone.gradient_checkpointing = True
    norm_of_pictures._say_seen.cache_clear()
    for _ in range(2):
        with statistics_of_pictures(model, valid):
            assert all(norm.training for norm in tracking_norms(model))
    assert len(caplog.records) == 1 and "65 % of the pixels of a batch are padding" in caplog.text


@pytest.mark.parametrize("other", [[(2, 2), (5, 5)], None], ids=["padded", "whole"])
def test_synchronised_statistics_are_those_of_the_pictures_of_all_processes(monkeypatch, other):
    """Also where one process has no padding: then it must not go a way of its own."""
    parts = [padded(SIZES), padded(other or [(6, 8)] * 2, seed=3)]
    rows = [image.transpose(0, 1)[:, valid] for image, valid in parts]

    def made():
        model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
        model.backbone.layers[3] = nn.Identity()  # dropout
        return model.train()

    expected = made()
    alone = expected(torch.cat(rows, dim=1)[None, :, None])
    alone.square().sum().backward()

    def process(part):
        model, (image, valid) = made_models[part], parts[part]
        with statistics_of_pictures(model, None if part and other is None else valid):
            logits = model(image)
        logits.transpose(0, 1)[:, valid].square().sum().backward()
        return logits.detach().transpose(0, 1)[:, valid]

    made_models = [made(), made()]
    found = TwoRanks(monkeypatch).run(process, range(2))
    torch.testing.assert_close(torch.cat(found, dim=1), alone[0, :, 0].detach())
    for model in made_models:
        for mine, theirs in zip(model.buffers(), expected.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)
    for one, two, theirs in zip(*(m.parameters() for m in (*made_models, expected)), strict=True):
        torch.testing.assert_close(one.grad + two.grad, theirs.grad, rtol=1e-4, atol=1e-4)
