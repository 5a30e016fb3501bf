"""Patches and their ranking against loops written from equations (13) and (14) of SFDA."""

import math

import pytest
import torch
from torch import Tensor

from sfseg.ops.patches import patch_entropy, rank, split


def probability(images: int = 4, size: tuple[int, int] = (7, 10)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(images, 3, *size, generator=generator)).softmax(dim=1)


def test_ranking_halves_every_position_by_entropy() -> None:
    p, parts = probability(), 3
    h, w = 7 // parts, 10 // parts
    found = rank(p, parts)
    assert found.easy.shape == found.hard.shape == (parts * parts * 2, 3, h, w)
    for k in range(parts * parts):
        top, left = k // parts * h, k % parts * w
        patches = [p[b, :, top : top + h, left : left + w] for b in range(4)]
        entropies = []
        for patch in patches:
            total = 0.0
            for y in range(h):
                for x in range(w):
                    total -= sum(float(v) * math.log(float(v)) for v in patch[:, y, x])
            entropies.append(total / (h * w))
        order = sorted(range(4), key=entropies.__getitem__)
        mine = found.position == k
        for half, chosen in ((found.easy, order[:2]), (found.hard, order[2:])):
            assert torch.equal(half[mine], torch.stack([patches[b] for b in chosen]))


def test_entropy_is_0_where_nothing_is_uncertain() -> None:
    certain = torch.zeros(2, 3, 4, 4)
    certain[:, 1] = 1
    assert torch.equal(patch_entropy(certain), torch.zeros(2))
    uniform = torch.full((3, 4, 4), 1 / 3)
    assert float(patch_entropy(uniform)) == pytest.approx(math.log(3), rel=1e-5)


def test_one_part_is_the_image() -> None:
    p = probability()
    assert torch.equal(split(p, 1)[0], p)


def test_gradient_reaches_both_halves() -> None:
    p = probability().requires_grad_()
    found = rank(p, 2)
    (found.hard.sum() * 2 + found.easy.sum()).backward()
    assert p.grad is not None and set(p.grad[..., :6, :].unique().tolist()) == {1.0, 2.0}


@pytest.mark.parametrize("images", [1, 3])
def test_odd_batches_are_refused(images: int) -> None:
    with pytest.raises(ValueError, match=f"an even number of images.* got {images}"):
        rank(probability(images), 2)


@pytest.mark.parametrize("parts", [0, 8])
def test_more_parts_than_rows_are_refused(parts: int) -> None:
    with pytest.raises(ValueError, match=rf"patches must be in \[1, 7\] .* got {parts}"):
        rank(probability(), parts)
