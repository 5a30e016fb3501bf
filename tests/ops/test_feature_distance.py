import pytest
import torch

from sfseg.ops.feature_distance import feature_distance
from sfseg.types import IGNORE

THINGS = (2, 4)


def case(seed=0, cells=(3, 4), stride=4):
    rng = torch.Generator().manual_seed(seed)
    features, reference = torch.randn(2, 2, 5, *cells, generator=rng)
    label = torch.randint(0, 6, (2, *cells), generator=rng)
    label = label.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    noise = torch.rand(label.shape, generator=rng) < 0.25
    return features.requires_grad_(), reference, label.masked_fill(noise, IGNORE).to(torch.uint8)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("least_share", [0.5, 0.75, 1.0])
def test_cells_by_hand(least_share):
    features, reference, label = case()
    found = feature_distance(
        features.double(), reference.double(), label, classes=THINGS, least_share=least_share
    )
    total, number = 0.0, 0
    for b in range(2):
        for y in range(3):
            for x in range(4):
                cell = label[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                if any(int((cell == k).sum()) >= 16 * least_share for k in THINGS):
                    difference = features[b, :, y, x] - reference[b, :, y, x]
                    total += float(difference.detach().double().square().sum().sqrt())
                    number += 1
    assert (number > 0) == (least_share < 1)
    assert found.item() == pytest.approx(total / max(number, 1))


def test_without_a_thing_it_is_0_and_so_are_its_gradients():
    features, reference, label = case()
    loss = feature_distance(features, reference, torch.full_like(label, IGNORE), classes=THINGS)
    loss.backward()
    assert loss == 0 and not features.grad.any()


def test_equal_features_have_gradients_of_0_not_nan():
    features, _, label = case()
    feature_distance(features, features, torch.full_like(label, 2), classes=THINGS).backward()
    assert not features.grad.any()
