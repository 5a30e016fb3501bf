import math

import pytest
import torch

from sfseg.ops.label_free import (
    agreement,
    agreement_counts,
    class_shares,
    classwise_agreement,
    neighbourhood_densities,
    second_view,
    soft_neighbourhood_density,
)


def naive_density(rows, temperature):
    """The paper's equations, pixel by pixel."""
    entropies = []
    for i, mine in enumerate(rows):
        weights = []
        for j, theirs in enumerate(rows):
            if i != j:
                dot = sum(a * b for a, b in zip(mine, theirs, strict=True))
                norms = math.hypot(*mine) * math.hypot(*theirs)
                weights.append(math.exp(dot / norms / temperature))
        shares = [weight / sum(weights) for weight in weights]
        entropies.append(-sum(share * math.log(share) for share in shares))
    return sum(entropies) / len(entropies)


@pytest.fixture
def probability():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=rng, dtype=torch.float64).mul(2).softmax(dim=1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_density_is_that_of_the_definition(probability, temperature):
    expected = naive_density(probability.tolist(), temperature)
    found = soft_neighbourhood_density(probability, temperature=temperature)
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("double")
def test_density_does_not_depend_on_the_order_of_pixels_or_classes(probability):
    shuffled = probability[torch.tensor([3, 1, 6, 0, 2, 5, 4])][:, torch.tensor([2, 0, 3, 1])]
    torch.testing.assert_close(
        soft_neighbourhood_density(shuffled), soft_neighbourhood_density(probability)
    )


def test_clusters_of_more_pixels_are_denser():
    one_hot = torch.eye(4)
    scattered, clustered = one_hot.repeat(2, 1), one_hot[:2].repeat(4, 1)
    # Each pixel has 1 and 3 equal neighbours; the others are e^-20 as likely.
    assert float(soft_neighbourhood_density(scattered)) == pytest.approx(0, abs=1e-5)
    assert float(soft_neighbourhood_density(clustered)) == pytest.approx(math.log(3), abs=1e-5)


@pytest.mark.usefixtures("double")
def test_a_collapsed_model_has_the_largest_density(probability):
    collapsed = probability[:1].expand(7, 4)
    assert float(soft_neighbourhood_density(collapsed)) == pytest.approx(math.log(6))


def test_half_precision_and_certain_predictions_stay_finite():
    certain = torch.eye(3, dtype=torch.bfloat16)
    assert math.isfinite(soft_neighbourhood_density(certain, temperature=1e-3))


def test_autocast_does_not_touch_the_density(probability):
    expected = soft_neighbourhood_density(probability)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(soft_neighbourhood_density(probability), expected)


def test_density_refuses_what_has_no_neighbours(probability):
    with pytest.raises(ValueError, match="at least 2 pixels, got 1"):
        soft_neighbourhood_density(probability[:1])
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        soft_neighbourhood_density(probability, temperature=0.0)


def naive_iou(label, other, k):
    pairs = list(zip(label.flatten().tolist(), other.flatten().tolist(), strict=True))
    either = sum(a == k or b == k for a, b in pairs)
    return sum(a == b == k for a, b in pairs) / either if either else 0.0


@pytest.fixture
def views():
    rng = torch.Generator().manual_seed(1)
    label = torch.randint(0, 4, (2, 5, 6), generator=rng, dtype=torch.uint8)
    changed = torch.rand(label.shape, generator=rng) < 0.3
    return label, torch.where(changed, label * 0, label)


@pytest.mark.usefixtures("double")
def test_agreement_is_that_of_counting(views):
    label, other = views
    counts = agreement_counts(label, other, num_classes=5)
    same = sum(a == b for a, b in zip(label.flatten(), other.flatten(), strict=True))
    assert float(agreement(counts)) == pytest.approx(int(same) / label.numel())
    shares = [float((label == k).sum()) / label.numel() for k in range(5)]
    assert class_shares(counts).tolist() == pytest.approx(shares)
    chosen = torch.tensor([True, True, False, True, True])
    ious = [naive_iou(label, other, k) for k in (0, 1, 3, 4)]
    assert float(classwise_agreement(counts, chosen)) == pytest.approx(sum(ious) / 4)


def test_agreement_does_not_depend_on_which_view_comes_first(views):
    label, other = views
    everything = torch.ones(4, dtype=torch.bool)
    one, two = (agreement_counts(*pair, num_classes=4) for pair in (views, (other, label)))
    assert agreement(one) == agreement(two)
    assert classwise_agreement(one, everything) == classwise_agreement(two, everything)


def test_a_vanished_class_costs_its_share_of_the_classwise_agreement_alone():
    label = torch.tensor([0, 0, 0, 1], dtype=torch.uint8)
    before = agreement_counts(label, label, num_classes=3)
    after = agreement_counts(label * 0, label * 0, num_classes=3)
    classes = class_shares(before) > 0
    assert classes.tolist() == [True, True, False]
    assert agreement(before) == agreement(after) == classwise_agreement(before, classes) == 1
    assert classwise_agreement(after, classes) == 0.5


def test_classwise_agreement_refuses_no_class():
    with pytest.raises(ValueError, match="at least one class, got none"):
        classwise_agreement(torch.ones(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))


@pytest.mark.usefixtures("double")
def test_the_second_view_is_mirrored_and_darker():
    image = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).expand(1, 3, 1, 4)
    row = second_view(image)[0, 0, 0].tolist()
    assert row == pytest.approx([1, 0.8**1.5, 0.2**1.5, 0])


def test_densities_of_images_are_those_of_their_pixels() -> None:
    torch.manual_seed(0)
    probability = torch.rand(3, 5, 4, 6, dtype=torch.float64).softmax(dim=1)
    position = torch.stack([torch.randperm(24)[:7] for _ in range(3)])
    densities = neighbourhood_densities(probability, position)
    assert densities.shape == (3,)
    for k, own in enumerate(position.tolist()):
        rows = torch.stack([probability[k, :, p // 6, p % 6] for p in own])
        torch.testing.assert_close(densities[k], soft_neighbourhood_density(rows))
