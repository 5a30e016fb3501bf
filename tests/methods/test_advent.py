"""ADVENT: what discriminators see, and entropy beside the source's loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import QUIET
from two_domains import batch, fit, make, reached

from sfseg.methods.advent import Advent
from sfseg.methods.advent_minent import AdventMinEnt
from sfseg.methods.source_only import SourceOnly

pytestmark = QUIET


def information(logits):
    """-p ln p / ln K of every class and pixel, in double precision."""
    chance = logits.detach().double().softmax(1)
    return -(chance * chance.log()) / math.log(logits.shape[1])


@pytest.mark.parametrize("levels", [1, 2])
def test_discriminators_see_weighted_self_information(levels):
    method = make(Advent, levels=levels)
    target = method.look_at(batch()["target"])
    verdicts = method.verdicts(target)
    for judge, logits, verdict in zip(method.discriminators, target.levels, verdicts, strict=True):
        seen = method.seen(logits).detach()
        torch.testing.assert_close(seen.double(), information(logits), rtol=1e-5, atol=1e-7)
        assert float(seen.min()) >= 0 and float(seen.sum(1).max()) <= 1 + 1e-6
        torch.testing.assert_close(verdict, judge(seen).flatten())


def test_its_steps_are_adaptsegnets():
    method = make(Advent, levels=2)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    fit(method, [batch()])
    same = {name for name, p in method.named_parameters() if torch.equal(p, before[name])}
    assert same <= {"network.backbone.stages.0.0.bias"}  # batch normalisation takes it away
    target = method.look_at(batch()["target"])
    for term in method.fooling_terms(target).values():
        assert reached(method, term) == {"network"}


def test_certain_predictions_leave_gradients_finite():
    logits = torch.tensor([200.0, -200.0, 0.0])[:, None, None].expand(1, 3, 32, 32)
    logits = logits.clone().requires_grad_()
    make(Advent).seen(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("levels", [1, 2])
def test_minent_by_hand(levels):
    method = make(AdventMinEnt, levels=levels, entropy_weight=0.5).double()
    data = batch()
    loss = method.training_step(data, 0)["loss"]
    source, target = (method.look_at(data[domain]) for domain in ("source", "target"))
    label = data["source"]["label"].long()
    expected = 0.0
    for k in range(levels):
        entropy = information(target.levels[k]).sum(1).mean()
        hard = F.cross_entropy(source.levels[k], label, ignore_index=255)
        expected += (1, 0.1)[k] * hard + (0.5, 0.0002)[k] * entropy
    torch.testing.assert_close(loss, expected)
    names = {"cross_entropy", "entropy"}
    assert set(method.terms) == names | (
        {"auxiliary", "auxiliary_entropy"} if levels == 2 else set()
    )


@pytest.mark.usefixtures("double")
def test_minent_without_its_weight_is_training_on_the_source():
    method, other = make(AdventMinEnt, entropy_weight=0.0).double(), make(SourceOnly).double()
    for each in (method, other):
        fit(each, [batch(0), batch(1)])
    mine = dict(method.network.named_parameters())
    for name, value in other.network.named_parameters():
        torch.testing.assert_close(mine[name], value, rtol=1e-12, atol=1e-12)


def test_minent_sharpens_predictions_on_the_target():
    method = make(AdventMinEnt, entropy_weight=10.0)
    before = float(information(method.look_at(batch()["target"]).levels[0]).sum(1).mean())
    fit(method, [batch()] * 4)
    after = float(information(method.look_at(batch()["target"]).levels[0]).sum(1).mean())
    assert after < before


@pytest.mark.parametrize("name", ["entropy_weight", "aux_entropy_weight"])
def test_errors(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1.0"):
        make(AdventMinEnt, **{name: -1.0})
