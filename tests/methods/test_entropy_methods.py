"""MinEnt, MaxSquare, TENT and statistics of batch normalisation: losses, what moves, refusals."""

import math
from collections import OrderedDict

import pytest
import small
import torch
from small import QUIET, built, configured
from torch import nn

from sfseg.callbacks.ema import WeightAverage
from sfseg.callbacks.finite import FiniteGuard
from sfseg.data.geometry import Geometry
from sfseg.errors import ConfigError, NumericError
from sfseg.labels import LabelSpace
from sfseg.methods import bn_adapt
from sfseg.networks.batch_norm import tracking_norms
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import cross_entropy
from sfseg.ops.max_square import guided_label, image_weighted_max_square, max_square
from sfseg.optim import count_parameters

pytestmark = QUIET
LABELS = LabelSpace("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


class Backbone(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stride_multiple = 1
        self.stages = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(width, 4, 1), norm=norm(4), relu=nn.ReLU(), drop=nn.Dropout(0.5)
                )
            )
            for width in (3, 4)
        )

    def forward(self, image):
        maps = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else image))
        return maps


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_classes = 3
        self.classifier = nn.Conv2d(4, 3, 1)

    def forward(self, maps):
        return 4 * self.classifier(maps[-1])


def network(norm=nn.BatchNorm2d, *, aux=False, **options):
    torch.manual_seed(0)
    return Segmenter(Backbone(norm), Head(), aux_head=Head() if aux else None, **options)


def make(name, model=None, **options):
    model = network() if model is None else model
    return built(configured(f"method={name}", "trainer.max_steps=9"), model, LABELS, **options)


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 6, 5), generator=random, dtype=torch.uint8)
    geometry = torch.tensor([Geometry.whole((6, 5))] * 2)
    return {"target": {"image": image, "index": torch.arange(2), "geometry": geometry}}


def step(method, data):
    torch.manual_seed(7)
    return method.training_step(data, 0)["loss"]


def logits_of(method, data, **options):
    """What the network says in the modes that the step has left it in."""
    torch.manual_seed(7)
    return method.network(data["target"]["image"], **options)


def fit(method, data, *callbacks):
    # More batches than steps: the number of steps must end the run.
    return small.fit(method, [*data, *data], max_steps=len(data), callbacks=list(callbacks))


def uncertainty(logits):
    chance = logits.detach().double().softmax(dim=1)
    return float(-(chance * chance.log()).sum(dim=1).mean())


def trained(method):
    return {name for name, p in method.network.named_parameters() if p.requires_grad}


def statistics(method):
    norms = tracking_norms(method.network)
    return [part.clone() for norm in norms for part in (norm.running_mean, norm.running_var)]


def require_same_statistics(one, two):
    assert all(torch.equal(*pair) for pair in zip(statistics(one), statistics(two), strict=True))


def test_minent_is_normalised_entropy():
    method = make("minent", weight=2.0)
    loss = step(method, batch())
    expected = 2 * uncertainty(logits_of(method, batch())) / math.log(3)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_tent_is_entropy_in_nats_with_statistics_of_the_batch_and_without_dropout():
    method = make("tent")
    before = statistics(method)
    loss = step(method, batch())
    assert torch.equal(loss, step(method, batch()))
    assert not torch.equal(before[0], statistics(method)[0])
    assert loss.item() == pytest.approx(uncertainty(logits_of(method, batch())), rel=1e-5)


@pytest.mark.parametrize("norm", ["code", "paper", "sfda"])
def test_max_square_is_that_of_its_norm(norm):
    method = make("max_square", norm=norm, weight=3.0)
    loss = step(method, batch())
    expected = 3 * max_square(logits_of(method, batch()), norm=norm)
    torch.testing.assert_close(loss, expected)
    method = make("max_square", norm=norm, weight=3.0, image_weighting=True, ratio=0.5)
    weighted = image_weighted_max_square(logits_of(method, batch()), ratio=0.5, norm=norm)
    torch.testing.assert_close(step(method, batch()), 3 * weighted)


def test_guidance_of_an_auxiliary_head():
    model = network(aux=True)
    method = make("max_square", model, multi_level=True, delta=0.6, weight=3.0, guidance_weight=2.0)
    loss = step(method, batch())
    main, aux = logits_of(method, batch(), levels=True)
    guidance = cross_entropy(aux, guided_label(main, aux, delta=0.6))
    assert guidance > 0
    torch.testing.assert_close(loss, 3 * (max_square(main) + 2 * guidance))
    assert set(method.terms) == {"max_square", "guidance"}


@pytest.mark.parametrize("name", ["minent", "max_square"])
def test_what_trains(name):
    norms = {f"backbone.stages.{k}.norm.{part}" for k in range(2) for part in ("weight", "bias")}
    convolutions = {n.replace("norm", "conv") for n in norms}
    head = {f"head.classifier.{part}" for part in ("weight", "bias")}
    expected = {
        "norms": norms, "backbone": norms | convolutions, "all": norms | convolutions | head,
    }  # fmt: skip
    assert trained(make(name)) == norms
    for part, parameters in expected.items():
        method = make(name, network(aux=True), trainable=part)
        method.configure_optimizers()
        step(method, batch()).backward()
        got = {n for n, p in method.network.named_parameters() if p.grad is not None}
        assert trained(method) == got == parameters
    if name == "max_square":
        method = make(name, network(aux=True), trainable="all", multi_level=True)
        assert {n for n in trained(method) if n.startswith("aux_")} == {f"aux_{n}" for n in head}


def test_tent_trains_weights_of_norms_alone():
    method = make("tent", network(aux=True))
    start = {name: value.clone() for name, value in method.state_dict().items()}
    fit(method, [batch(k) for k in range(3)])
    moved = {n for n, v in method.state_dict().items() if not torch.equal(v, start[n])}
    assert moved and all(n.startswith("network.backbone.stages.") and ".norm." in n for n in moved)
    assert {n.rsplit(".", 1)[1] for n in moved} >= {"weight", "bias", "running_mean", "running_var"}
    layers = make("tent", network(lambda width: nn.GroupNorm(2, width)))
    assert len(trained(layers)) == 4 and step(layers, batch()) > 0


def test_statistics_are_all_that_bn_adapt_changes():
    method = make("bn_adapt")
    assert count_parameters(method.network.parameters())[1] == 0
    start = {name: value.clone() for name, value in method.state_dict().items()}
    trainer = fit(method, [batch(k) for k in range(3)])
    assert trainer.global_step == method.iteration == int(method.batches) == 3
    moved = {n for n, v in method.state_dict().items() if not torch.equal(v, start[n])}
    assert {n.rsplit(".", 1)[1] for n in moved - {"batches"}} == {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert method.logged["momentum"] == pytest.approx(0.1 * math.exp(-2 * 0.08))


def test_with_a_decay_a_share_of_the_source_remains():
    method = make("bn_adapt", momentum=0.5, decay=0.7)
    start = statistics(method)
    for _ in range(3):
        step(method, batch())
    remains = math.prod(1 - 0.5 * math.exp(-0.7 * k) for k in range(3))
    whole = make("bn_adapt", momentum=1.0, decay=0.0)
    step(whole, batch())
    for old, new, found in zip(start, statistics(whole), statistics(method), strict=True):
        torch.testing.assert_close(found, remains * old + (1 - remains) * new)


def test_without_momentum_statistics_are_the_mean_of_all_batches():
    method = make("bn_adapt", momentum=None, decay=0.0)
    alone = []
    for k in range(3):
        step(method, batch(k))
        fresh = make("bn_adapt", momentum=1.0, decay=0.0)
        step(fresh, batch(k))
        alone.append(statistics(fresh))
    for found, values in zip(statistics(method), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(values).mean(dim=0))


def test_a_resumed_bn_adapt_goes_on_with_its_momentum():
    method = make("bn_adapt", momentum=None, decay=0.0)
    step(method, batch(0))
    other = make("bn_adapt", momentum=None, decay=0.0)
    other.load_state_dict(method.state_dict())
    for copy in (method, other):
        step(copy, batch(1))
    require_same_statistics(method, other)


def poison(monkeypatch, at):
    """Make the loss of one iteration NaN."""
    real, calls = bn_adapt.normalized_entropy, []

    def entropy(logits):
        calls.append(None)
        return real(logits) * (math.nan if len(calls) == at else 1)

    monkeypatch.setattr(bn_adapt, "normalized_entropy", entropy)


def test_a_skipped_batch_leaves_statistics_as_they_were(monkeypatch):
    poison(monkeypatch, at=2)
    method = make("bn_adapt")
    fit(method, [batch(k) for k in (0, 1, 2)], FiniteGuard("skip"))
    other = make("bn_adapt")
    fit(other, [batch(k) for k in (0, 2)])
    assert int(method.batches) == 2
    require_same_statistics(method, other)


def test_a_loss_that_is_not_finite_ends_bn_adapt(monkeypatch):
    poison(monkeypatch, at=2)
    with pytest.raises(NumericError, match="iteration 2: of the loss, entropy is nan"):
        fit(make("bn_adapt"), [batch(k) for k in range(3)], FiniteGuard("stop"))


def test_an_average_of_statistics_is_kept():
    method = make("bn_adapt", momentum=1.0, decay=0.0)
    fit(method, [batch(0), batch(1)], WeightAverage(decay=0.75))
    alone = []
    for k in range(2):
        fresh = make("bn_adapt", momentum=1.0, decay=0.0)
        step(fresh, batch(k))
        alone.append(statistics(fresh))
    for found, first, second in zip(statistics(method), *alone, strict=True):
        torch.testing.assert_close(found, 0.75 * first + 0.25 * second)


WITHOUT = {"norm": lambda width: nn.GroupNorm(2, width)}


@pytest.mark.parametrize(
    ("name", "model", "options", "message"),
    [
        ("minent", {}, {"weight": 0}, "weight must be positive, got 0"),
        ("minent", {}, {"trainable": "he"}, "trainable must be one of all, backbone, norms, got"),
        ("minent", {"norm": nn.Identity}, {"trainable": "norms"}, "must have normalisation layers"),
        ("tent", {"norm": nn.Identity}, {}, "must have normalisation layers with weights"),
        ("tent", {"batch_norm": "frozen"}, {}, "train or frozen_affine for tent"),
        ("bn_adapt", {"batch_norm": "frozen_statistics"}, {}, "train or frozen_affine for bn_adap"),
        ("bn_adapt", WITHOUT, {}, "none in Backbone and Head; choose a backbone such"),
        ("bn_adapt", {}, {"momentum": 0.0}, r"momentum must be in \(0, 1\] or null, got 0.0"),
        ("bn_adapt", {}, {"decay": -1.0}, "decay must not be negative"),
        ("bn_adapt", {}, {"momentum": None}, "decay must .* 0 for momentum=null, .* got 0.08"),
        ("max_square", {}, {"norm": "mean"}, "norm must be one of code, paper, sfda"),
        ("max_square", {}, {"weight": 0}, "weight must be positive"),
        ("max_square", {}, {"guidance_weight": -1}, "guidance_weight must be positive, got -1"),
        ("max_square", {}, {"ratio": 2}, r"ratio must be in \[0, 1\], got 2"),
        ("max_square", {}, {"delta": 2}, r"delta must be in \[0, 1\], got 2"),
        ("max_square", {}, {"trainable": "he"}, "trainable must be one of"),
        ("max_square", {}, {"multi_level": True}, "backbone.aux must be a head for multi_level"),
    ],
)
def test_errors(name, model, options, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        make(name, network(**model), **options)
