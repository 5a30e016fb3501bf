"""Losses of masks and their assignment, against loops and brute force."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from sfseg.ops.mask_loss import (
    assigned,
    binary_cross_entropy,
    class_masks,
    dice,
    pairwise_binary_cross_entropy,
    pairwise_dice,
)
from sfseg.types import IGNORE


@pytest.fixture
def masks() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 30, dtype=torch.float64) * 3


@pytest.fixture
def targets() -> Tensor:
    torch.manual_seed(1)
    return (torch.rand(3, 30) < 0.4).double()


def test_losses_by_hand(masks: Tensor, targets: Tensor) -> None:
    found = binary_cross_entropy(masks[:3], targets), dice(masks[:3], targets)
    for k in range(3):
        entropy = both = claimed = 0.0
        for logit, target in zip(masks[k].tolist(), targets[k].tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            entropy -= target * math.log(p) + (1 - target) * math.log(1 - p)
            both, claimed = both + p * target, claimed + p
        assert float(found[0][k]) == pytest.approx(entropy / 30)
        total = claimed + float(targets[k].sum())
        assert float(found[1][k]) == pytest.approx(1 - (2 * both + 1) / (total + 1))


@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_cost_what_their_losses_are(masks: Tensor, targets: Tensor, weighted: bool) -> None:
    weight = (torch.arange(30) % 3 > 0).double() if weighted else None
    for pairs, alone in (
        (pairwise_binary_cross_entropy, binary_cross_entropy),
        (pairwise_dice, dice),
    ):
        cost = pairs(masks, targets, weight)
        for q in range(4):
            for t in range(3):
                own = None if weight is None else weight[None]
                one = alone(masks[q : q + 1], targets[t : t + 1], own)
                assert float(cost[q, t]) == pytest.approx(float(one))


def test_points_that_do_not_count_are_as_if_they_were_not_there(
    masks: Tensor, targets: Tensor
) -> None:
    weight = (torch.arange(30) < 20).double().expand(3, 30)
    for loss in (binary_cross_entropy, dice):
        torch.testing.assert_close(
            loss(masks[:3], targets, weight), loss(masks[:3, :20], targets[:, :20])
        )
    assert binary_cross_entropy(masks[:3], targets, torch.zeros(3, 30)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("queries", "true"), [(5, 3), (3, 3), (2, 3), (4, 0)])
def test_the_assignment_is_the_cheapest(queries: int, true: int) -> None:
    torch.manual_seed(queries)
    cost = torch.randn(queries, true)
    mine, theirs = assigned(cost)
    assert len(mine) == len(theirs) == min(queries, true)
    assert len(set(mine.tolist())) == len(mine) and len(set(theirs.tolist())) == len(theirs)
    matrix = cost if queries >= true else cost.T
    least = min(
        sum(float(matrix[row, k]) for k, row in enumerate(rows))
        for rows in permutations(range(len(matrix)), matrix.shape[1])
    )
    assert float(cost[mine, theirs].sum()) == pytest.approx(least, abs=1e-5)


def test_a_cost_that_is_not_finite_is_the_last_to_be_chosen() -> None:
    cost = torch.tensor([[math.nan, 1.0], [2.0, math.inf], [3.0, 3.0]])
    mine, theirs = assigned(cost)
    assert sorted(zip(mine.tolist(), theirs.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_every_class_that_is_there_has_one_mask() -> None:
    label = torch.tensor([[3, 3, IGNORE], [0, 7, 3]], dtype=torch.uint8)
    found = class_masks(label, 5)
    assert found.classes.tolist() == [0, 3]
    assert found.masks.int().tolist() == [[[0, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 0, 1]]]
    empty = class_masks(torch.full((2, 3), IGNORE), 5)
    assert empty.classes.shape == (0,) and empty.masks.shape == (0, 2, 3)
