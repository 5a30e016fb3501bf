import math

import numpy as np
import pytest
import torch

from sfseg.ops.losses import cross_entropy
from sfseg.types import IGNORE


def case(num_classes=5, shape=(2, 6, 7), void=0.3, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(num_classes, size=shape).astype(np.uint8)
    label[rng.random(shape) < void] = IGNORE
    logits = torch.as_tensor(rng.normal(0, 3, (shape[0], num_classes, *shape[1:])))
    return logits.float().requires_grad_(), torch.as_tensor(label)


def by_hand(logits, label, *, per_pixel):
    """Minus log of the probability of the true class, pixel by pixel in double precision."""
    scores, total, valid = logits.detach().double().numpy(), 0.0, 0
    for b, y, x in np.ndindex(*label.shape):
        k = int(label[b, y, x])
        if k != IGNORE:
            pixel = scores[b, :, y, x]
            total += math.log(np.exp(pixel).sum()) - pixel[k]
            valid += 1
    return total / (valid if per_pixel == "valid" else label.numel())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("normalize", ["valid", "all"])
@pytest.mark.parametrize(
    ("num_classes", "shape", "void"),
    [(5, (2, 6, 7), 0.3), (2, (1, 3, 3), 0), (254, (1, 4, 5), 0.5), (3, (1, 1, 1), 0)],
)
def test_values_by_hand(num_classes, shape, void, normalize):
    logits, label = case(num_classes, shape, void)
    expected = by_hand(logits, label, per_pixel=normalize)
    assert cross_entropy(logits, label, normalize=normalize).item() == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_classes", [2, 19, 254])
def test_ignorance_costs_the_logarithm_of_the_classes(num_classes):
    label = torch.zeros(1, 2, 2, dtype=torch.uint8)
    loss = cross_entropy(torch.zeros(1, num_classes, 2, 2), label)
    assert loss.item() == pytest.approx(math.log(num_classes), rel=1e-9)


@pytest.mark.parametrize("normalize", ["valid", "all"])
def test_nothing_labelled_is_zero_with_a_zero_gradient(normalize):
    logits, label = case(void=1)
    assert (label == IGNORE).all()
    loss = cross_entropy(logits, label, normalize=normalize)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.usefixtures("double")
def test_gradient_is_probability_minus_truth_and_zero_where_ignored():
    logits, label = case()
    cross_entropy(logits, label).backward()
    valid = label != IGNORE
    truth = torch.nn.functional.one_hot(label.where(valid, 0).long(), 5).permute(0, 3, 1, 2)
    expected = (logits.detach().softmax(1) - truth) * valid[:, None] / valid.sum()
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.usefixtures("double")
def test_padding_with_ignored_pixels_changes_only_the_mean_over_all():
    logits, label = case()
    wide = torch.nn.functional.pad(logits, (0, 7))
    void = torch.nn.functional.pad(label, (0, 7), value=IGNORE)
    torch.testing.assert_close(cross_entropy(wide, void), cross_entropy(logits, label))
    halved = cross_entropy(wide, void, normalize="all")
    torch.testing.assert_close(halved, cross_entropy(logits, label, normalize="all") / 2)


@pytest.mark.usefixtures("double")
def test_pixels_may_come_in_any_order():
    logits, label = case()
    torch.testing.assert_close(
        cross_entropy(logits.flip(-1), label.flip(-1)), cross_entropy(logits, label)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_single(dtype):
    logits, label = case(shape=(2, 200, 200))
    half = logits.detach().to(dtype)
    loss = cross_entropy(half, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(half.float(), label))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    logits, label = case()
    assert torch.equal(cross_entropy(logits, label.to(dtype)), cross_entropy(logits, label))


def test_an_unknown_normalisation_is_refused():
    logits, label = case()
    with pytest.raises(ValueError, match="'mean'"):
        cross_entropy(logits, label, normalize="mean")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("normalize", ["valid", "all"])
def test_weights_scale_pixels_and_are_not_counted(normalize):
    logits, label = case()
    ones = torch.ones(label.shape)
    plain = cross_entropy(logits, label, normalize=normalize)
    torch.testing.assert_close(
        cross_entropy(logits, label, normalize=normalize, weight=ones), plain
    )
    weight = torch.rand(label.shape)
    parts = [
        cross_entropy(logits, label, normalize=normalize, weight=part)
        for part in (weight, ones - weight)
    ]
    torch.testing.assert_close(sum(parts), plain)
    kept = label.masked_fill(weight < 0.5, IGNORE)
    torch.testing.assert_close(
        cross_entropy(logits, label, normalize="all", weight=(weight >= 0.5).float()),
        cross_entropy(logits, kept, normalize="all"),
    )
    void = torch.full_like(label, IGNORE)
    assert cross_entropy(logits, void, normalize=normalize, weight=weight) == 0
