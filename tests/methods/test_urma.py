"""URMA: its loss from formulas, and what trains."""

import math

import pytest
import torch
import torch.nn.functional as F
from self_training import batch, make
from small import configured, fit, step, transformer

from sfseg.errors import ConfigError
from sfseg.types import IGNORE

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]


@pytest.mark.parametrize(("entropy", "uncertainty"), [(1.0, 0.1), (0.0, 0.0), (2.0, 30.0)])
def test_the_loss_is_that_of_the_formulas(entropy, uncertainty):
    method = make("urma", entropy_weight=entropy, uncertainty_weight=uncertainty)
    data = batch()
    output = step(method, data)
    torch.manual_seed(7)
    logits, auxiliary = method.network.forward_auxiliary(data["target"]["image"])
    assert len(auxiliary) == 4
    chance = logits.double().softmax(dim=1)
    label = data["target"]["pseudo_label"].long()
    expected = F.cross_entropy(logits.double(), label, ignore_index=IGNORE)
    expected -= entropy * (chance * chance.log()).sum(dim=1).mean() / math.log(19)
    for other in auxiliary:
        expected += uncertainty * F.mse_loss(other.double().softmax(dim=1), chance)
    torch.testing.assert_close(output["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    assert torch.equal(output["prediction"], prediction.to(torch.uint8))
    torch.testing.assert_close(output["confidence"], confidence)
    assert not output["confidence"].requires_grad


def test_decoders_learn_from_the_main_one_and_not_the_other_way_round():
    method, data = make("urma", freeze_classifier=False, entropy_weight=0), batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    step(method, data)["loss"].backward()
    network = method.network
    assert not any(p.grad.any() for p in network.head.parameters() if p.grad is not None)
    assert all(d.head.classifier.weight.grad.any() for d in network.auxiliary_decoders)
    # Features become such that they agree.
    assert any(p.grad.any() for p in network.backbone.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_the_classifier_stays_unless_it_is_let_go(frozen):
    method = make("urma", freeze_classifier=frozen)
    assert method.network.head.training != frozen
    before = {n: v.clone() for n, v in method.network.state_dict().items()}
    fit(method, [batch(seed=k) for k in range(2)])
    moved = {n for n, v in method.network.state_dict().items() if not torch.equal(v, before[n])}
    assert any(n.startswith("backbone.") for n in moved)
    assert any(n.startswith("head.") for n in moved) != frozen
    for k in range(4):
        assert any(n.startswith(f"auxiliary_decoders.{k}.") for n in moved)


def test_decoders_learn_ten_times_as_fast_and_are_no_part_of_an_evaluation():
    method = make("urma")
    rates = {
        id(parameter): group["lr"]
        for group in method.configure_optimizers()["optimizer"].param_groups
        for parameter in group["params"]
    }
    names = {name: rates.get(id(p)) for name, p in method.network.named_parameters()}
    base = configured("method=urma").method.lr
    for name, rate in names.items():
        factor = 10 if name.startswith("auxiliary_decoders.") else 1
        assert rate == (None if name.startswith("head.") else pytest.approx(factor * base))
    image = batch()["target"]["image"]
    with torch.no_grad():
        torch.testing.assert_close(method.eval()(image), transformer().eval()(image))


def test_a_plain_network_is_refused():
    with pytest.raises(ConfigError, match=r"have auxiliary decoders, got a plain Segmenter; set"):
        make("urma", adapter=None)


@pytest.mark.parametrize("name", ["entropy_weight", "uncertainty_weight"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        make("urma", **{name: -1})
