"""Dual attention against loops written from equations (5) to (10) of SFDA."""

import math

import pytest
import torch
from torch import Tensor

from sfseg.ops.distillation import (
    attention_divergence,
    dual_attention_map,
    log_attention,
    output_distance,
)


def feature(seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(seed)).double()


def naive(maps: Tensor, *, norm: str, temperature: float) -> tuple[Tensor, Tensor]:
    """Spatial and channel attention of one image, element by element."""
    f = maps.flatten(1).T  # (N, C), as printed
    n, c = f.shape
    s, r = torch.zeros(n, n, dtype=f.dtype), torch.zeros(c, c, dtype=f.dtype)
    rows = f / f.norm(dim=1, keepdim=True) if norm == "l2" else f
    columns = f / f.norm(dim=0, keepdim=True) if norm == "l2" else f
    for j in range(n):
        weights = [math.exp(float(rows[i] @ rows[j]) / temperature) for i in range(n)]
        for i in range(n):
            s[j, i] = weights[i] / sum(weights)
    for j in range(c):
        weights = [math.exp(float(columns[:, i] @ columns[:, j]) / temperature) for i in range(c)]
        for i in range(c):
            r[j, i] = weights[i] / sum(weights)
    return s, r


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("norm", "temperature"), [("none", 1.0), ("l2", 0.1), ("l2", 1.0)])
def test_attention_is_that_of_the_equations(norm: str, temperature: float) -> None:
    x = feature()
    found = log_attention(x, norm=norm, temperature=temperature)
    for k in range(len(x)):
        spatial, channel = naive(x[k], norm=norm, temperature=temperature)
        torch.testing.assert_close(found.spatial[k].exp(), spatial)
        torch.testing.assert_close(found.channel[k].exp(), channel)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("product", ["danet", "literal"])
def test_map_is_features_mixed_by_either_attention(product: str) -> None:
    x = feature()
    found = dual_attention_map(x, log_attention(x), product=product)
    for k in range(len(x)):
        s, r = naive(x[k], norm="l2", temperature=0.1)
        f = x[k].flatten(1)  # (C, N)
        expected = torch.zeros(2 * len(f), f.shape[1], dtype=f.dtype)
        for c in range(len(f)):
            for j in range(f.shape[1]):
                weights = s[j] if product == "danet" else s[:, j]
                expected[c, j] = sum(weights[i] * f[c, i] for i in range(f.shape[1]))
                expected[len(f) + c, j] = sum(r[c, i] * f[i, j] for i in range(len(f)))
        torch.testing.assert_close(found[k], expected)


@pytest.mark.usefixtures("double")
def test_divergence_is_that_of_the_rows() -> None:
    fake, target = log_attention(feature(0)), log_attention(feature(1))
    expected = 0.0
    for p, q in zip(fake, target, strict=True):
        rows = [
            sum(math.exp(a) * (a - b) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip(p.flatten(0, 1).tolist(), q.flatten(0, 1).tolist(), strict=True)
        ]
        expected += sum(rows) / len(rows)
    assert float(attention_divergence(fake, target)) == pytest.approx(expected, rel=1e-9)
    assert float(attention_divergence(fake, fake)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_literal_form_is_finite_where_it_saturates(scale: float) -> None:
    """Probabilities are exactly 0 there, whose logarithm would be NaN in a gradient."""
    x = feature(0, scale).float().requires_grad_()
    fake = log_attention(x, norm="none", temperature=1.0)
    target = log_attention(feature(1, scale).float(), norm="none", temperature=1.0)
    loss = attention_divergence(fake, target) + dual_attention_map(x, fake).abs().mean()
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert (fake.spatial.exp() == 0).any() == (scale > 1)


def test_attention_does_not_follow_autocast() -> None:
    x = feature().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_attention(x)
    torch.testing.assert_close(inside.spatial, log_attention(x).spatial)


@pytest.mark.usefixtures("double")
def test_attention_of_channels_is_the_same_wherever_pixels_lie() -> None:
    x = feature()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    moved = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(log_attention(moved).channel, log_attention(x).channel)
    spatial = log_attention(x).spatial[:, order][:, :, order]
    torch.testing.assert_close(log_attention(moved).spatial, spatial)


@pytest.mark.usefixtures("double")
def test_output_distance_is_mean_over_classes_and_pixels() -> None:
    a, b = (
        torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(k)).double() for k in (0, 1)
    )
    p, q = a.softmax(1), b.softmax(1)
    pixels = [
        sum(abs(float(p[n, c, y, x] - q[n, c, y, x])) for c in range(5)) / 5
        for n in range(2) for y in range(3) for x in range(3)
    ]  # fmt: skip
    assert float(output_distance(a, b)) == pytest.approx(sum(pixels) / len(pixels), rel=1e-9)
    assert float(output_distance(a, b, of="logits")) == pytest.approx(float((a - b).abs().mean()))
    assert output_distance(a + 7, a) < 1e-12


def test_bad_settings_are_named() -> None:
    x = feature()
    with pytest.raises(ValueError, match="norm must be one of l2, none, got 'l1'"):
        log_attention(x, norm="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        log_attention(x, temperature=0)
    with pytest.raises(ValueError, match="product must be one of danet, literal"):
        dual_attention_map(x, log_attention(x), product="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of must be one of probabilities, logits"):
        output_distance(x, x, of="labels")  # type: ignore[arg-type]
