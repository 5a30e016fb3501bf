"""CBST and CRST-MRKLD: their losses from formulas."""

import pytest
import torch
from self_training import batch, make
from small import configured, step

from sfseg.types import IGNORE


def terms(method, data):
    """Cross-entropy and -mean log p of the labelled pixels, one by one."""
    torch.manual_seed(7)
    logits = method(data["target"]["image"])
    label = data["target"]["pseudo_label"]
    valid = label != IGNORE
    scores = logits.double().permute(0, 2, 3, 1)[valid].log_softmax(dim=1)
    own = scores[torch.arange(len(scores)), label[valid].long()]
    return -own.mean(), -scores.mean(), logits


@pytest.mark.parametrize("weight", [0.0, 0.1, 3.0])
def test_the_loss_is_that_of_the_formulas(weight):
    method, data = make("cbst", mrkld_weight=weight), batch()
    output = step(method, data)
    own, all_classes, logits = terms(method, data)
    expected = own + weight * all_classes
    torch.testing.assert_close(output["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    assert torch.equal(output["prediction"], prediction.to(torch.uint8))
    torch.testing.assert_close(output["confidence"], confidence)
    assert not output["confidence"].requires_grad
    assert set(method.terms) == ({"cross_entropy", "mrkld"} if weight else {"cross_entropy"})


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_without_any_label_there_is_nothing_to_learn(weight):
    method, data = make("cbst", mrkld_weight=weight), batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    loss = step(method, data)["loss"]
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in method.parameters())


def test_its_recipe():
    cfg = configured("method=cbst").method
    assert (cfg.rounds, cfg.portion_step, cfg.portion_max) == (3, 0.05, 0.5)
    assert cfg.selection == {
        "_target_": "sfseg.methods.labelling.Selection",
        "rule": "cbst", "discard": 0.0, "portion": 0.2, "flip": True,
    }  # fmt: skip
    assert cfg.schedule.decay == "constant" and cfg.steps == cfg.schedule.steps


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="mrkld_weight must not be negative, got -1"):
        make("cbst", mrkld_weight=-1)
