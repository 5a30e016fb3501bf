"""Uni-UVPT: its loss from formulas, its switches, what trains and what does not."""

import math
from functools import partial

import pytest
import small
import torch
import torch.nn.functional as F
from small import QUIET, built, configured, fit, step, transformer
from torch import nn

from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES, CROSS_CITY, SYNTHIA
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.elr import elr_regularizer
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.types import IGNORE

pytestmark = QUIET
batch = partial(small.batch, size=(64, 64), cells=(4, 4))


def make(*overrides, labels=CITYSCAPES, network=None, **options):
    torch.manual_seed(0)
    cfg = configured("method=uniuvpt", "method.adapter.num_heads=4", *overrides)
    return built(cfg, network or transformer(labels.num_classes), labels, **options)


def views(method, data):
    """Logits and adapted features of each scale, straight from the network."""
    image = data["target"]["image"].float() / 255
    torch.manual_seed(7)
    every = []
    for scale in method.scales:
        size = [round(side * scale) for side in image.shape[-2:]]
        view = image if scale == 1 else F.interpolate(image, size, mode="bilinear")
        logits, features = method.network.forward_adapted(view)
        every.append((F.interpolate(logits, image.shape[-2:], mode="bilinear"), features))
    return every


def divergence(logits):
    """Mean over pixels and views of KL(view || mean)."""
    chances = torch.stack([view.double().softmax(dim=1) for view in logits])
    mean = chances.mean(dim=0)
    return (chances * (chances / mean).log()).sum(dim=2).mean()


def distance(stages, by_position=True):
    """Sum over stages of the mean squared distance to the mean of the views."""
    total = 0.0
    for maps in stages:
        size = maps[1].shape[-2:]
        same = torch.stack([F.interpolate(m, size, mode="bilinear") for m in maps])
        squares = (same - same.mean(dim=0)).square()
        total += squares.sum(dim=2).mean() if by_position else squares.mean()
    return total


def uncertainty(logits):
    chance = logits.double().softmax(dim=1)
    entropy = -(chance * chance.log()).sum(dim=1) / math.log(logits.shape[1])
    return (entropy.square() + 1e-8).square().mean()


@pytest.mark.parametrize(
    ("alpha", "beta", "entropy", "normalize"),
    [
        (1e-3, 1.0, 5e-3, "positions"),
        (0.0, 1.0, 5e-3, "positions"),
        (0.0, 0.0, 0.0, "positions"),
        (2.0, 3.0, 4.0, "elements"),
    ],
)
def test_the_loss_is_that_of_the_formulas(alpha, beta, entropy, normalize):
    method = make(alpha=alpha, beta=beta, entropy_weight=entropy, normalize=normalize)
    data = batch()
    output = step(method, data)
    every = views(method, data)
    logits = [scores for scores, _ in every]
    stages = list(zip(*(features for _, features in every), strict=True))
    expected = lovasz_softmax(logits[1], data["target"]["pseudo_label"]).double()
    expected += entropy * uncertainty(logits[1]) if entropy else 0
    expected += beta * divergence(logits) if beta else 0
    expected += alpha * distance(stages, normalize == "positions") if alpha else 0
    torch.testing.assert_close(output["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    confidence, prediction = torch.stack([s.softmax(dim=1) for s in logits]).mean(0).max(dim=1)
    torch.testing.assert_close(output["confidence"], confidence)
    assert (output["prediction"] == prediction).float().mean() > 0.999
    assert output["prediction"].dtype == torch.uint8
    assert not output["confidence"].requires_grad


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_term_without_weight_is_not_computed(name, monkeypatch):
    term = {"alpha": "_feature_consistency", "beta": "_prediction_consistency"}[name]
    method = make(**{name: 0.0})
    monkeypatch.setattr(method, term, None)
    assert torch.isfinite(step(method, batch())["loss"])


def test_pseudo_labels_are_all_that_is_learnt_from():
    data, other = batch(size=(32, 32)), batch(size=(32, 32))
    other["target"]["label"].fill_(3)
    method = make()
    assert torch.equal(step(method, data)["loss"], step(method, other)["loss"])
    other["target"]["pseudo_label"][0, 10:, 5] = 4
    assert not torch.equal(step(method, data)["loss"], step(method, other)["loss"])


SWITCHES = {
    "paper": [],
    "single": ["method.adapter.stem=single"],
    "none": ["method.adapter.stem=none"],
    "no level embedding": ["method.adapter.level_embedding=false"],
    "one interactor": ["method.adapter.interactors=1"],
    "no prompts": ["method.adapter.interactors=0"],
}


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_every_trainable_parameter_gets_a_gradient(name):
    method = make(*SWITCHES[name])
    step(method, batch(size=(32, 32)))["loss"].backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in trained.values())
    assert any(".adapter." in n for n in trained) == (name != "no prompts")
    assert all(n.startswith(("network.backbone.adapter.", "network.head.")) for n in trained)
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)


def test_the_backbone_is_as_before_after_training():
    network = transformer(drop_path_rate=0.5)
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    method = make(network=network)
    start = {name: value.clone() for name, value in method.state_dict().items()}
    modes = []
    backbone = method.network.backbone.backbone
    inner = next(m for m in backbone.modules() if isinstance(m, nn.LayerNorm))
    inner.register_forward_hook(lambda module, *_: modes.append(backbone.training))
    fit(method, [batch(size=(32, 32), seed=k) for k in range(2)])
    after = backbone.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert modes and not any(modes)
    moved = [n for n, v in method.state_dict().items() if not torch.equal(v, start[n])]
    assert any(n.startswith("network.head.") for n in moved)
    assert any(n.startswith("network.backbone.adapter.") for n in moved)
    assert not any(n.startswith("network.backbone.backbone.") for n in moved)


def test_a_frozen_backbone_does_not_drop_paths():
    method = make(network=transformer(drop_path_rate=0.9))
    method.network.head.eval()
    data = batch(size=(32, 32))
    assert torch.equal(*(method.training_step(data, k)["loss"] for k in range(2)))


@pytest.mark.parametrize("labels", [CROSS_CITY, SYNTHIA, CITYSCAPES], ids=lambda s: s.name)
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_any_number_of_classes_and_odd_sizes(labels, variant):
    method = make(f"method.variant={variant}", labels=labels)
    size = (65, 97) if labels is CITYSCAPES else (33, 20)
    output = step(method, batch(size=size, classes=labels.num_classes))
    assert output["prediction"].shape == output["confidence"].shape == (2, *size)
    assert int(output["prediction"].max()) < labels.num_classes
    assert 1 / labels.num_classes < float(output["confidence"].min())
    output["loss"].backward()
    assert torch.isfinite(output["loss"])


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_without_any_label_loss_and_gradients_are_finite(variant):
    method = make(f"method.variant={variant}")
    data = batch(size=(32, 64))
    data["target"]["pseudo_label"].fill_(IGNORE)
    loss = step(method, data)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


def test_the_released_variant_learns_weights_of_the_scales():
    """The first of them, as in its checkpoints, is that of the image itself."""
    method = make("method.variant=release")
    mixing = method.network.backbone.adapter.mixing
    with torch.no_grad():
        mixing.copy_(torch.tensor([40.0, -40.0, -40.0]))
    data = batch()
    output = step(method, data)
    confidence = views(method, data)[0][0].softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(output["confidence"], confidence)


class Coordinates(Segmenter):
    """A network whose features are where their cells lie in the image it is shown."""

    def __init__(self):
        backbone = nn.Module()
        backbone.strides, backbone.stride_multiple = (4, 8, 16, 32), 32
        super().__init__(backbone, nn.Module())
        self.weight = nn.Parameter(torch.ones(1))

    def forward_adapted(self, image, *, enlarged=True):
        height, width = (side + -side % 32 for side in image.shape[-2:])
        maps = []
        for stride in self.backbone.strides:
            y = (torch.arange(height // stride) + 0.5) * stride / image.shape[-2]
            x = (torch.arange(width // stride) + 0.5) * stride / image.shape[-1]
            maps.append(torch.stack(torch.meshgrid(y, x, indexing="ij"))[None] * self.weight)
        return image[:, :2] * self.weight, maps


@pytest.mark.parametrize("size", [(128, 64), (176, 176), (176, 65), (200, 97)])
def test_features_of_all_scales_show_the_same_place(size):
    """Padding is no part of the image, and another part of the padded one at every scale."""
    method = make(adapter=None, network=Coordinates())
    with torch.no_grad():
        _, features, _ = method._views(torch.zeros(1, 3, *size))
    for stage, stride in zip(zip(*features, strict=True), (4, 8, 16, 32), strict=True):
        shape = tuple(-(-side // stride) for side in size)
        assert stage[1].shape[-2:] == shape
        for view in stage:
            there = F.interpolate(view, shape, mode="bilinear")
            off = (there - stage[1]).abs().amax(dim=(0, 2, 3)) * torch.tensor(size)
            # Of cells that padding cuts, only a part is the image's.
            assert (off <= 1.5 * stride).all()


def test_early_learning_regularisation_of_the_first_step():
    data = batch()
    method, other = make(correction="elr", elr_weight=2.0), make(correction="none")
    losses = {}
    for name, mine in (("elr", method), ("none", other)):
        mine._trainer = type("One", (), {"world_size": 1})()
        losses[name] = step(mine, data)["loss"]
    own = views(method, data)[1][0]
    # Targets are, after one visit, 0.3 times the mean prediction of squares of eight pixels.
    target = 0.3 * F.avg_pool2d(own.softmax(dim=1), 8).repeat_interleave(8, -1)
    target = target.repeat_interleave(8, -2)
    expected = losses["none"] + 2.0 * elr_regularizer(own, target)
    torch.testing.assert_close(losses["elr"], expected, rtol=1e-4, atol=1e-4)
    assert set(method.ensemble.targets) == {5, 3} and not other.ensemble.targets


def test_a_skipped_step_leaves_the_running_means_as_they_were():
    method = make(correction="elr")
    method._trainer = type("One", (), {"world_size": 1})()
    step(method, batch())
    before, undo = dict(method.ensemble.targets), method.undo_step()
    step(method, batch(seed=1))
    assert not torch.equal(method.ensemble.targets[5], before[5])
    undo()
    assert method.ensemble.targets.keys() == before.keys()
    assert all(torch.equal(method.ensemble.targets[k], before[k]) for k in before)


def test_early_learning_regularisation_in_training():
    method = make(correction="elr")
    fit(method, [batch(seed=k) for k in range(3)])
    kept = method.ensemble.targets
    assert set(kept) == {5, 3} and kept[5].shape == (19, 8, 8)
    total = kept[5].float().sum(dim=0)
    torch.testing.assert_close(total, torch.full_like(total, 1 - 0.7**3), atol=5e-3, rtol=0)
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    other = make(correction="elr")
    other.on_load_checkpoint(checkpoint)
    assert all(torch.equal(other.ensemble.targets[k], kept[k]) for k in kept)
    del checkpoint["ensemble"]
    make(correction="none").on_load_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match=r"run without method\.correction=elr"):
        other.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("correction", ["online", "offline", "none"])
def test_other_corrections_are_no_matter_of_the_loss(correction):
    method = make(correction=correction, elr_weight=9.0)
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    assert "ensemble" not in checkpoint
    data = batch(size=(32, 32))
    assert torch.equal(step(method, data)["loss"], step(make(), data)["loss"])


def test_a_network_without_prompts_is_refused():
    with pytest.raises(ConfigError, match=r"must have a prompt adapter, got TinyTransformer"):
        step(make(adapter=None), batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "mine"}, "variant must be one of paper, release, got 'mine'"),
        ({"correction": "on"}, "correction must be one of online, offline, elr, none, got 'on'"),
        ({"normalize": "all"}, "normalize must be one of elements, positions, got 'all'"),
        ({"scales": [0.5, 2.0]}, r"scales must be positive and one of them 1, got \[0.5, 2.0\]"),
        ({"scales": [1.0, 0.0]}, "scales must be positive"),
        ({"scales": [0.5, 1.0], "variant": "release"}, "scales must be 3 for variant=release"),
        ({"alpha": -1}, "alpha must not be negative, got -1"),
        ({"beta": -1}, "beta must not be negative"),
        ({"entropy_weight": -1}, "entropy_weight must not be negative"),
        ({"elr_weight": -1}, "elr_weight must not be negative"),
        ({"elr_momentum": 1.0}, r"momentum must be in \[0, 1\)"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
