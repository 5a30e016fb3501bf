"""The client of Generalize then Adapt: six heads that learn pseudo-labels."""

import math

import pytest
import torch
from small import QUIET, batch, built, configured, fit, head, step

from sfseg.config.composition import build
from sfseg.errors import ConfigError
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.multi_head import LeaveOneOutSegmenter
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.types import IGNORE

pytestmark = QUIET


def plain(name="tiny"):
    torch.manual_seed(0)
    return build_segmenter(name=name, head=head, num_classes=19)


def make(network=None, **options):
    cfg = configured("method=gta")
    if network is None:
        network = build(cfg.method.source_adapter)(plain())
    return built(cfg, network, **options)


@pytest.mark.parametrize("weight", [0.0, 5e-3, 2.0])
def test_the_loss_is_the_sum_over_six_heads(weight):
    method, data = make(entropy_weight=weight), batch()
    output = step(method, data)
    torch.manual_seed(7)
    logits = method.network.forward_heads(data["target"]["image"])
    assert len(logits) == 6
    expected = 0.0
    for scores in logits:
        chance = scores.double().softmax(dim=1)
        entropy = -(chance * chance.log()).sum(dim=1) / math.log(19)
        expected += lovasz_softmax(scores, data["target"]["pseudo_label"]).double()
        expected += weight * (entropy.square() + 1e-8).square().mean()
    torch.testing.assert_close(output["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    confidence, prediction = logits[-1].softmax(dim=1).max(dim=1)
    assert torch.equal(output["prediction"], prediction.to(torch.uint8))
    torch.testing.assert_close(output["confidence"], confidence)
    assert not output["confidence"].requires_grad


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_only_heads_train(name):
    network = build(configured("method=gta").method.source_adapter)(plain(name))
    method = make(network)
    before = {n: v.clone() for n, v in method.state_dict().items()}
    fit(method, [batch(seed=k) for k in range(2)])
    moved = {n for n, v in method.state_dict().items() if not torch.equal(v, before[n])}
    assert not any(n.startswith("network.backbone.") for n in moved)
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert all(n.startswith(("network.head.", "network.leave_one_out.")) for n in trained)
    assert trained <= moved | {n for n in trained if not before[n].any()}
    for k in range(5):
        assert any(n.startswith(f"network.leave_one_out.{k}.") for n in moved)
    assert any(n.startswith("network.head.") for n in moved)


def test_without_any_label_loss_and_gradients_are_finite():
    method, data = make(), batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    loss = step(method, data)["loss"]
    loss.backward()
    grads = [p.grad for p in method.parameters() if p.requires_grad]
    assert torch.isfinite(loss)
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_it_is_a_source_gta_model_with_the_most_confident_third_of_each_class():
    cfg = configured("method=gta")
    assert cfg.pseudo_labels.discard == 0.66
    assert set(cfg.method.needs) == {"target", "pseudo_labels", "source_model"}
    network = build(cfg.method.source_adapter)(plain())
    assert isinstance(network, LeaveOneOutSegmenter) and network.num_heads == 6


def test_a_network_of_one_head_is_refused():
    with pytest.raises(ConfigError, match=r"leave-one-out heads, got a plain Segmenter; set meth"):
        make(plain())


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="entropy_weight must not be negative, got -1"):
        make(entropy_weight=-1)
