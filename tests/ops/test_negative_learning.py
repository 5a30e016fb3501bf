"""Negative learning against a loop over pixels."""

import math

import pytest
import torch

from sfseg.ops.negative_learning import negative_learning, negative_rank


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rank", [2, 3, 5])
def test_the_class_of_a_rank_is_made_less_likely(rank):
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    logits.requires_grad_()
    loss = negative_learning(logits, rank)
    total, which = 0.0, []
    for pixel in logits.detach().permute(0, 2, 3, 1).reshape(-1, 5):
        chances = pixel.softmax(dim=0).tolist()
        k = sorted(range(5), key=chances.__getitem__, reverse=True)[rank - 1]
        total -= math.log(1 - chances[k])
        which.append(k)
    assert loss.item() == pytest.approx(total / len(which), rel=1e-9)
    loss.backward()
    gradient = logits.grad.permute(0, 2, 3, 1).reshape(-1, 5)
    # Of the softmax: what one class loses, all others gain.
    rising = gradient > 0
    assert rising.sum() == len(which)
    assert rising.float().argmax(dim=1).tolist() == which


def test_it_is_finite_and_at_most_ln_2():
    for logits in (torch.zeros(1, 2, 1, 1), torch.tensor([80.0, 80.0, -80.0]).view(1, 3, 1, 1)):
        logits.requires_grad_()
        loss = negative_learning(logits, 2)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("classes", "ranks"),
    [
        (2, {2}),
        (3, {2, 3}),
        (5, set(range(2, 6))),
        (13, set(range(3, 10))),
        (19, set(range(6, 13))),
    ],
)
def test_ranks_lie_about_the_middle_and_are_never_the_first(classes, ranks):
    torch.manual_seed(0)
    drawn = [negative_rank(classes) for _ in range(200)]
    assert set(drawn) == ranks
    torch.manual_seed(0)
    assert [negative_rank(classes) for _ in range(200)] == drawn
    assert negative_rank(classes, width=0) == max(2, classes // 2)


def test_errors():
    with pytest.raises(ValueError, match=r"rank must be in \[2, 3\], got 1"):
        negative_learning(torch.zeros(1, 3, 1, 1), 1)
    with pytest.raises(ValueError, match=r"rank must be in \[2, 3\], got 4"):
        negative_learning(torch.zeros(1, 3, 1, 1), 4)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        negative_rank(1)
    with pytest.raises(ValueError, match="width must not be negative, got -1"):
        negative_rank(19, width=-1)
