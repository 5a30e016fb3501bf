import math

import numpy as np
import pytest
import torch

from sfseg.ops.entropy import entropy, normalized_entropy, robust_entropy


def case(num_classes=5, shape=(2, 4, 3), spread=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (shape[0], num_classes, *shape[1:]))
    return torch.as_tensor(logits).float().requires_grad_()


def by_hand(logits):
    """-sum p log p / log K, pixel by pixel in double precision."""
    scores = logits.detach().double().numpy()
    fraction = np.zeros((scores.shape[0], *scores.shape[2:]))
    for b, y, x in np.ndindex(*fraction.shape):
        weight = [math.exp(s - scores[b, :, y, x].max()) for s in scores[b, :, y, x]]
        chances = [w / sum(weight) for w in weight]
        fraction[b, y, x] = -sum(p * math.log(p) for p in chances if p > 0) / math.log(len(chances))
    return fraction


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_classes", [2, 13, 16, 19, 254])
def test_values_by_hand(num_classes):
    logits = case(num_classes)
    np.testing.assert_allclose(
        normalized_entropy(logits).detach(), by_hand(logits), rtol=1e-9, atol=1e-12
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_classes", [2, 19])
def test_values_in_nats_by_hand(num_classes):
    logits = case(num_classes)
    expected = by_hand(logits) * math.log(num_classes)
    np.testing.assert_allclose(entropy(logits).detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_classes", [2, 13, 19, 254])
def test_ignorance_is_one_and_certainty_zero(num_classes):
    ignorant = torch.zeros(1, num_classes, 1, 1)
    assert normalized_entropy(ignorant).item() == pytest.approx(1, rel=1e-9)
    certain = torch.full((1, num_classes, 1, 1), -1e4)
    certain[0, 0] = 0
    assert normalized_entropy(certain).item() == 0


@pytest.mark.parametrize("spread", [0, 1e-4, 1, 100, 1e4, 1e30])
def test_it_stays_in_range_with_a_finite_gradient(spread):
    logits = case(19, (1, 40, 40), spread)
    fraction = normalized_entropy(logits)
    assert fraction.min() >= 0 and fraction.max() <= 1
    robust_entropy(logits).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.usefixtures("double")
def test_scores_shifted_or_in_another_order_are_as_uncertain():
    logits = case()
    torch.testing.assert_close(normalized_entropy(logits + 50), normalized_entropy(logits))
    torch.testing.assert_close(normalized_entropy(logits.flip(1)), normalized_entropy(logits))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_the_penalty_by_hand(exponent):
    logits = case()
    expected = np.mean((by_hand(logits) ** 2 + 1e-8) ** exponent)
    assert robust_entropy(logits, exponent=exponent).item() == pytest.approx(expected, rel=1e-9)


def test_the_penalty_spares_the_certain():
    """Its gradient on a sure pixel is a smaller share of the entropy's than on an unsure one."""

    def share(score):
        logits = torch.tensor([score, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
        (slope,) = torch.autograd.grad(normalized_entropy(logits).mean(), logits)
        (robust,) = torch.autograd.grad(robust_entropy(logits), logits)
        return (robust[0, 0] / slope[0, 0]).item()

    assert share(8.0) < 1e-3 < 1 < share(0.5)


def test_half_precision_is_computed_in_single():
    logits = case().detach().bfloat16()
    assert normalized_entropy(logits).dtype == torch.float32
    torch.testing.assert_close(normalized_entropy(logits), normalized_entropy(logits.float()))


def test_one_class_is_refused():
    for measure in (entropy, normalized_entropy):
        with pytest.raises(ValueError, match="at least 2 classes, got 1"):
            measure(torch.zeros(1, 1, 2, 2))
