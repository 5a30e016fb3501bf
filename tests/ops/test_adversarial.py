"""Losses of verdicts by hand: which answer is right, and how far off the others are."""

import math
from typing import get_args

import pytest
import torch

from sfseg.ops.adversarial import Domain, DomainLoss, domain_loss


def by_hand(verdicts: list[float], domain: Domain, kind: DomainLoss) -> float:
    """Verdict by verdict; the source is 0, the target 1."""
    total = 0.0
    for verdict in verdicts:
        chance = 1 / (1 + math.exp(-verdict))
        right = chance if domain == "target" else 1 - chance
        distance = verdict - (1 if domain == "target" else 0)
        total += -math.log(right) if kind == "vanilla" else distance**2
    return total / len(verdicts)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", get_args(DomainLoss))
@pytest.mark.parametrize("domain", get_args(Domain))
def test_values_by_hand(domain: Domain, kind: DomainLoss) -> None:
    verdict = 3 * torch.randn(2, 1, 3, 4, dtype=torch.float64)
    found = domain_loss(verdict, domain, kind)
    assert float(found) == pytest.approx(by_hand(verdict.flatten().tolist(), domain, kind))


@pytest.mark.parametrize("kind", get_args(DomainLoss))
def test_descending_it_moves_verdicts_to_the_domain(kind: DomainLoss) -> None:
    for domain, sign in (("source", 1), ("target", -1)):
        verdict = torch.full((4,), 0.5, requires_grad=True)
        domain_loss(verdict, domain, kind).backward()  # type: ignore[arg-type]
        assert verdict.grad is not None and bool((verdict.grad * sign > 0).all())


def test_certain_verdicts_stay_finite() -> None:
    verdict = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = domain_loss(verdict, "source")
    loss.backward()
    assert loss.item() == 5000 and torch.isfinite(verdict.grad).all()  # type: ignore[arg-type]


def test_half_precision_is_left_for_the_loss() -> None:
    assert domain_loss(torch.zeros(3, dtype=torch.bfloat16), "target").dtype == torch.float32


def test_errors() -> None:
    with pytest.raises(ValueError, match="kind must be one of vanilla, least_squares, got 'ls'"):
        domain_loss(torch.zeros(1), "source", "ls")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="domain must be one of source, target, got 'city'"):
        domain_loss(torch.zeros(1), "city")  # type: ignore[arg-type]
