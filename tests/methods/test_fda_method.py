"""FDA's loss: the source's labels and a robust entropy on the target."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import QUIET
from two_domains import batch, fit, make, reached

from sfseg.methods.fda import FDA
from sfseg.methods.source_only import SourceOnly

pytestmark = QUIET


def robust(logits, exponent):
    """Pixel by pixel: (h^2 + 1e-8)^exponent of the entropy h over ln K."""
    total, pixels = 0.0, logits.detach().double().movedim(1, -1).flatten(0, 2)
    for row in pixels.softmax(1).tolist():
        entropy = -sum(p * math.log(p) for p in row) / math.log(len(row))
        total += (entropy**2 + 1e-8) ** exponent
    return total / len(pixels)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("levels", "exponent"), [(1, 2.0), (2, 0.5)])
def test_loss_by_hand(levels, exponent):
    method = make(FDA, levels=levels, exponent=exponent).double()
    data = batch()
    loss = method.training_step(data, 0)["loss"]
    source, target = (method.look_at(data[domain]) for domain in ("source", "target"))
    label = data["source"]["label"].long()
    hard = [F.cross_entropy(logits, label, ignore_index=255) for logits in source.levels]
    expected = sum(w * h for w, h in zip((1, 0.1), hard, strict=False))
    expected += 0.005 * robust(target.levels[0], exponent)
    torch.testing.assert_close(loss, expected)
    assert float(method.terms["entropy"]) == pytest.approx(
        0.005 * robust(target.levels[0], exponent)
    )


def test_both_domains_teach():
    method = make(FDA)
    source, target = (method.look_at(batch()[domain]) for domain in ("source", "target"))
    terms = method.cross_entropies(source, batch()["source"]["label"])
    assert reached(method, terms["cross_entropy"]) == {"network"}
    loss = method.training_step(batch(), 0)["loss"] - method.terms["cross_entropy"]
    assert loss > 0 and target.levels[0].requires_grad


@pytest.mark.usefixtures("double")
def test_without_its_weight_it_is_training_on_the_source():
    method, other = make(FDA, entropy_weight=0.0).double(), make(SourceOnly).double()
    for each in (method, other):
        fit(each, [batch(0), batch(1)])
    mine = dict(method.network.named_parameters())
    for name, value in other.network.named_parameters():
        torch.testing.assert_close(mine[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entropy_weight": -1.0}, "entropy_weight must not be negative, got -1.0"),
        ({"exponent": 0.0}, "exponent must be positive, got 0.0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(FDA, **options)
