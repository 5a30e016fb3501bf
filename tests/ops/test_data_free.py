"""SFDA's losses on fakes: each term from its equation, and who it is to move where."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg.ops.data_free import Agreement, View, verdict_loss


def views(seed: int = 0) -> tuple[View, View, Tensor]:
    """What a network and the source model say of fakes, and features of a larger target."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    mine, fixed = (View(draw(2, 5, 8, 12), draw(2, 3, 2, 3)) for _ in range(2))
    return mine, fixed, draw(2, 3, 4, 6)


def attention(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Equations (8) and (9) of one image's features (C, h, w), row by row."""
    x = feature.double().flatten(1)  # (C, N)
    positions, channels = x / x.norm(dim=0), x / x.norm(dim=1, keepdim=True)
    spatial = torch.stack([(positions.T @ p / 0.1).softmax(dim=0) for p in positions.T])
    channel = torch.stack([(channels @ c / 0.1).softmax(dim=0) for c in channels])
    return spatial, channel


def dual(feature: Tensor) -> Tensor:
    """Equation (10), position by position."""
    x = feature.double().flatten(1)
    spatial, channel = attention(feature)
    mixed = torch.stack([x @ row for row in spatial], dim=1)
    return torch.cat([mixed, torch.stack([row @ x for row in channel])])


def expected(mine: View, fixed: View, target: Tensor) -> tuple[float, float, float]:
    """Equations (5), (6) and (7)."""
    images = range(len(target))
    outputs = (mine.logits - fixed.logits).double().abs().mean()
    apart = [(dual(mine.feature[k]) - dual(fixed.feature[k])).abs().mean() for k in images]
    small = F.interpolate(target, fixed.feature.shape[-2:], mode="area")
    divergences = torch.zeros(2)
    for k in images:
        pairs = zip(attention(fixed.feature[k]), attention(small[k]), strict=True)
        for part, (p, q) in enumerate(pairs):
            divergences[part] += (p * (p / q).log()).sum(dim=1).mean() / len(target)
    return float(outputs), float(torch.stack(apart).mean()), float(divergences.sum())


def test_terms_of_the_generator_are_those_of_the_equations() -> None:
    mine, fixed, target = views()
    terms = Agreement(alpha=2.0, beta=0.5, tau=0.25).sought_by_generator(mine, fixed, [target])
    outputs, maps, divergence = expected(mine, fixed, target)
    assert float(terms["generator/mae"]) == pytest.approx(-2 * outputs, rel=1e-5)
    assert float(terms["generator/dad_ss"]) == pytest.approx(-0.5 * maps, rel=1e-5)
    assert float(terms["generator/dad_st"]) == pytest.approx(0.25 * divergence, rel=1e-4)


def test_targets_of_several_sizes_come_one_by_one() -> None:
    mine, fixed, target = views()
    agreement = Agreement(tau=0.25)
    together = agreement.sought_by_generator(mine, fixed, [target])
    apart = agreement.sought_by_generator(mine, fixed, list(target.split(1)))
    torch.testing.assert_close(apart, together)
    larger = [target[:1], target[1:].repeat_interleave(2, dim=2)]
    torch.testing.assert_close(agreement.sought_by_generator(mine, fixed, larger), together)


def test_terms_of_the_network_are_the_same_distances_with_the_other_sign() -> None:
    mine, fixed, target = views()
    terms = Agreement(alpha=2.0, beta=0.5).sought_by_network(mine, fixed)
    outputs, maps, _ = expected(mine, fixed, target)
    assert float(terms["mae"]) == pytest.approx(2 * outputs, rel=1e-5)
    assert float(terms["dad_ss"]) == pytest.approx(0.5 * maps, rel=1e-5)
    alike = Agreement().sought_by_network(fixed, fixed)
    assert all(term == 0 for term in alike.values())


def test_tau_is_beta_unless_given() -> None:
    mine, fixed, target = views()
    without, given = (
        Agreement(beta=0.3, tau=tau).sought_by_generator(mine, fixed, [target])["generator/dad_st"]
        for tau in (None, 0.3)
    )
    assert torch.equal(without, given) and without > 0


def test_the_gain_of_the_generator_can_be_bounded() -> None:
    mine, fixed, target = views()
    plain, bounded = (
        Agreement(alpha=3.0, g_mae_transform=kind).sought_by_generator(mine, fixed, [target])
        for kind in ("none", "neglog1p")
    )
    gain = -plain["generator/mae"] / 3
    torch.testing.assert_close(bounded["generator/mae"], -3 * torch.log(1 + gain))
    network = Agreement(alpha=3.0, g_mae_transform="neglog1p").sought_by_network(mine, fixed)
    torch.testing.assert_close(network["mae"], 3 * gain)


@pytest.mark.parametrize("hard", [False, True])
def test_a_verdict_is_right_where_patches_pass_for_what_they_shall(hard: bool) -> None:
    verdict = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    loss = verdict_loss(verdict, hard=hard)
    probability = 1 / (1 + (-verdict).exp())
    wanted = probability if hard else 1 - probability
    torch.testing.assert_close(loss, -wanted.log().mean())
    (gradient,) = torch.autograd.grad(loss, verdict)
    assert ((gradient < 0) == hard).all()


def test_a_view_is_what_a_network_says_of_images() -> None:
    given = torch.rand(1, 3, 4, 4)

    def network(image: Tensor, *, with_maps: bool) -> tuple[Tensor, list[Tensor]]:
        assert with_maps
        return image * 2, [image, image + 1]

    view = View.of(network, given)
    assert torch.equal(view.logits, given * 2) and torch.equal(view.feature, given + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must not be negative, got -1"),
        ({"beta": -1.0, "tau": 0.0}, "beta must not be negative"),
        ({"tau": -0.5}, "tau must not be negative"),
        ({"mae_on": "labels"}, "mae_on must be one of probabilities, logits, got 'labels'"),
        ({"dam_norm": "l3"}, "dam_norm must be one of l2, none"),
        ({"dam_temp": 0.0}, "dam_temp must be positive, got 0"),
        ({"dam_spatial": "rows"}, "dam_spatial must be one of danet, literal"),
        ({"g_mae_transform": "log"}, "g_mae_transform must be one of none, neglog1p"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agreement(**settings)
