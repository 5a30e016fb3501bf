import math

import numpy as np
import pytest
import torch

from sfseg.ops.contrastive import (
    historical_agreement,
    historical_contrast,
    of_pixels,
    pixel_counts,
    reliability,
    weighted_cross_entropy,
)
from sfseg.types import IGNORE

CLASSES = 4


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(shape, seed=0, void=0.2):
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=shape).astype(np.uint8)
    label[rng.random(shape) < void] = IGNORE
    return torch.as_tensor(label)


@pytest.mark.usefixtures("double")
def test_agreement_by_hand():
    now, before = random(2, CLASSES, 3, 3), random(2, CLASSES, 3, 3, seed=1)
    agreement = historical_agreement(now, before)
    for b, y, x in np.ndindex(*agreement.shape):
        p, q = (v[b, :, y, x].softmax(dim=0).tolist() for v in (before, now))
        divergence = sum(a * math.log(a / c) for a, c in zip(p, q, strict=True))
        assert float(agreement[b, y, x]) == pytest.approx(math.exp(-divergence), rel=1e-9)
    # Of both directions, the one in which the historical probabilities weigh.
    assert not torch.allclose(agreement, historical_agreement(before, now))
    torch.testing.assert_close(historical_agreement(now, now), torch.ones_like(agreement))


@pytest.mark.usefixtures("double")
def test_weighted_cross_entropy_by_hand():
    logits, label = random(2, CLASSES, 3, 5), labels((2, 3, 5))
    weight = random(2, 3, 5, seed=2).exp()
    total = 0.0
    for b, y, x in np.ndindex(*label.shape):
        k = int(label[b, y, x])
        if k != IGNORE:
            chance = logits[b, :, y, x].softmax(dim=0)
            total -= float(weight[b, y, x]) * math.log(chance[k])
    loss = weighted_cross_entropy(logits, label, weight)
    assert float(loss) == pytest.approx(total / label.numel(), rel=1e-9)


def test_classes_are_counted_and_weighed_image_by_image():
    label = labels((2, 6, 7))
    counts = pixel_counts(label, num_classes=CLASSES)
    expected = [[int((image == k).sum()) for k in range(CLASSES)] for image in label]
    assert counts.tolist() == expected
    weight = random(2, CLASSES).exp()
    shown = of_pixels(weight, label)
    for b, y, x in np.ndindex(*label.shape):
        if label[b, y, x] != IGNORE:
            assert shown[b, y, x] == weight[b, int(label[b, y, x])]


@pytest.mark.usefixtures("double")
def test_reliability_of_certain_and_of_ignorant_pixels():
    logits = torch.zeros(1, CLASSES, 1, 3, dtype=torch.float64)
    logits[0, 0, 0, 0], logits[0, 0, 0, 1] = 50.0, 4.0
    chance = logits[0, :, 0, 1].softmax(dim=0)
    entropy = -float((chance * chance.log()).sum()) / math.log(CLASSES)
    expected = [1.1, 1.1 - entropy, 0.9]
    assert 0.9 < expected[1] < 1.1
    assert reliability(logits)[0, 0].tolist() == pytest.approx(expected, abs=1e-12)


def contrast_by_hand(features, keys, label, weight, temperature):
    total, known = 0.0, 0
    for own, theirs, ids, trust in zip(
        features, keys, label.tolist(), weight.tolist(), strict=True
    ):
        for i, mine in enumerate(ids):
            if mine == IGNORE:
                continue
            known += 1
            powers = {
                j: trust[j]
                * math.exp(float(own[i] @ key / own[i].norm() / key.norm()) / temperature)
                for j, key in enumerate(theirs)
                if j != i and ids[j] != IGNORE
            }
            shares = [p / sum(powers.values()) for j, p in powers.items() if ids[j] == mine]
            total -= sum(math.log(share) for share in shares) / len(ids)
    return total / known


def contrast_case():
    features, keys = random(2, 9, 5), random(2, 9, 5, seed=1)
    rng = torch.Generator().manual_seed(2)
    weight = torch.rand(2, 9, generator=rng, dtype=torch.float64) + 0.5
    return features.requires_grad_(), keys, labels((2, 9)).long(), weight


@pytest.mark.usefixtures("double")
def test_contrast_by_hand():
    features, keys, label, weight = contrast_case()
    loss = historical_contrast(features.detach(), keys, label, weight, temperature=0.3)
    expected = contrast_by_hand(features.detach(), keys, label, weight, 0.3)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("double")
def test_contrast_does_not_depend_on_the_order_of_pixels_or_on_lengths():
    features, keys, label, weight = contrast_case()
    order = torch.randperm(9)
    loss = historical_contrast(features, keys, label, weight)
    torch.testing.assert_close(
        historical_contrast(
            3 * features[:, order], 2 * keys[:, order], label[:, order], weight[:, order]
        ),
        loss,
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "label", [[IGNORE] * 9, [0] + [IGNORE] * 8, [0, 1] + [IGNORE] * 7], ids=["none", "one", "two"]
)
def test_contrast_of_pixels_without_a_partner_is_0(label):
    features, keys, _, weight = contrast_case()
    loss = historical_contrast(features, keys, torch.tensor([label, label]), weight)
    loss.backward()
    assert loss == 0 and not features.grad.any()
