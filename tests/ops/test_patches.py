"""Patches and their ranking against loops written from equations (13) and (14) of SFDA."""

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sfseg.ops.patches import PredictionMap, patch_entropy, prediction_map, rank, split


def logits(images: int = 4, size: tuple[int, int] = (7, 10)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(images, 3, *size, generator=generator)


def naive_map(logits: Tensor, kind: PredictionMap) -> Tensor:
    """Pixel by pixel."""
    found = torch.empty_like(logits)
    for image, y, x in itertools.product(*(range(n) for n in (len(logits), *logits.shape[2:]))):
        values = [float(v) for v in logits[image, :, y, x]]
        total = sum(math.exp(v) for v in values)
        for k, value in enumerate(values):
            p = math.exp(value) / total
            seen = {
                "probabilities": p,
                "logits": value,
                "self_information": -p * math.log(p) / math.log(len(values)),
            }
            found[image, k, y, x] = seen[kind]
    return found


@pytest.mark.parametrize("kind", get_args(PredictionMap))
def test_ranking_halves_every_position_by_entropy(kind: PredictionMap) -> None:
    p, parts = naive_map(logits(), "probabilities"), 3
    shown = naive_map(logits(), kind)
    h, w = 7 // parts, 10 // parts
    found = rank(logits(), parts, kind=kind)
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
            expected = [shown[b, :, top : top + h, left : left + w] for b in chosen]
            torch.testing.assert_close(half[mine], torch.stack(expected))


def test_entropy_is_0_where_nothing_is_uncertain() -> None:
    certain = torch.zeros(2, 3, 4, 4)
    certain[:, 1] = 1
    assert torch.equal(patch_entropy(certain), torch.zeros(2))
    uniform = torch.full((3, 4, 4), 1 / 3)
    assert float(patch_entropy(uniform)) == pytest.approx(math.log(3), rel=1e-5)


def test_one_part_is_the_image() -> None:
    assert torch.equal(split(logits(), 1)[0], logits())


def test_gradient_reaches_both_halves() -> None:
    x = logits().requires_grad_()
    found = rank(x, 2, kind="logits")
    (found.hard.sum() * 2 + found.easy.sum()).backward()
    assert x.grad is not None and set(x.grad[..., :6, :].unique().tolist()) == {1.0, 2.0}


@pytest.mark.parametrize("kind", get_args(PredictionMap))
def test_gradient_is_finite_where_nothing_is_uncertain(kind: PredictionMap) -> None:
    x = torch.zeros(1, 3, 1, 1)
    x[:, 1] = 1e4
    shown = prediction_map(x.requires_grad_(), kind)
    (gradient,) = torch.autograd.grad(shown[:, 0].sum(), x)
    assert torch.isfinite(shown).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("images", [1, 3])
def test_odd_batches_are_refused(images: int) -> None:
    with pytest.raises(ValueError, match=f"an even number of images.* got {images}"):
        rank(logits(images), 2)


@pytest.mark.parametrize("parts", [0, 8])
def test_more_parts_than_rows_are_refused(parts: int) -> None:
    with pytest.raises(ValueError, match=rf"patches must be in \[1, 7\] .* got {parts}"):
        rank(logits(), parts)
