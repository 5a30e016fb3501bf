"""LD: its loss from formulas, its ranks, and what stays fixed."""

import pytest
import torch
import torch.nn.functional as F
from self_training import batch, make, residual
from small import configured, fit, step, transformer
from torch import nn

from sfseg.labels import LabelSpace
from sfseg.ops.negative_learning import negative_rank
from sfseg.types import IGNORE

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class NoDropout(nn.Module):
    """Lets a step be repeated whatever has been drawn."""

    def forward(self, x):
        return x


def still(network):
    network.head.dropout = NoDropout()
    return network


@pytest.mark.parametrize(("entropy", "negative"), [(1.0, 1.0), (0.0, 0.0), (2.0, 5.0)])
def test_the_loss_is_that_of_the_formulas(entropy, negative):
    method = make("ld", still(transformer()), entropy_weight=entropy, negative_weight=negative)
    data = batch()
    output = step(method, data)
    torch.manual_seed(7)
    rank = negative_rank(19) if negative else 2
    logits = method(data["target"]["image"]).double()
    chance = logits.softmax(dim=1)
    label = data["target"]["pseudo_label"].long()
    expected = F.cross_entropy(logits, label, ignore_index=IGNORE)
    expected -= entropy * (chance * chance.log()).sum(dim=1).mean()
    ranked = chance.sort(dim=1, descending=True).values
    expected -= negative * (1 - ranked[:, rank - 1]).log().mean()
    torch.testing.assert_close(output["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(output["prediction"], logits.argmax(dim=1).to(torch.uint8))
    assert not output["confidence"].requires_grad


def test_steps_draw_different_ranks():
    method, data = make("ld", still(transformer()), entropy_weight=0.0), batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    torch.manual_seed(0)
    losses = {float(method.training_step(data, 0)["loss"].detach()) for _ in range(12)}
    assert 2 < len(losses) <= 7


def test_two_classes_have_a_negative_label_too():
    two = LabelSpace("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    method, data = make("ld", labels=two), batch()
    data["target"]["pseudo_label"].fill_(1)
    loss = step(method, data)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("fixed", [True, False])
def test_batch_normalisation_of_backbone_and_head_is_fixed(fixed):
    method = make("ld", residual(), fixed_norms=fixed)
    norms = {n: m for n, m in method.network.named_modules() if isinstance(m, BATCH_NORM)}
    assert {n.split(".")[0] for n in norms} == {"backbone", "head"}
    before = {n: v.clone() for n, v in method.network.state_dict().items()}
    fit(method, [batch(size=(64, 64), seed=k) for k in range(2)])
    moved = {n for n, v in method.network.state_dict().items() if not torch.equal(v, before[n])}
    of_norms = {name for name in moved if name.rpartition(".")[0] in norms}
    assert bool(of_norms) != fixed and moved - of_norms
    assert all(norm.training != fixed for norm in norms.values())
    assert method.network.head.training


def test_its_recipe():
    cfg = configured("method=ld").method
    assert (cfg.rounds, cfg.selection.portion, cfg.portion_step) == (2, 0.1, 0.05)


@pytest.mark.parametrize("name", ["entropy_weight", "negative_weight", "negative_width"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        make("ld", **{name: -1})
