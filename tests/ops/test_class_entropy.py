"""The entropy of each class over a set, and the most uncertain classes."""

import math

import pytest
import torch

from sfseg.ops.class_entropy import (
    add_class_entropy,
    by_uncertainty,
    empty_class_entropy,
    mean_class_entropy,
)
from sfseg.ops.entropy import normalized_entropy, probability_entropy


def maps(seed=0, classes=5, images=6):
    rng = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(images, classes, 7, 9, generator=rng)).softmax(dim=1)


def summed(probability):
    sums = empty_class_entropy(probability.shape[1])
    add_class_entropy(sums, probability_entropy(probability), probability.argmax(dim=1))
    return sums


def test_equals_the_formula_pixel_by_pixel():
    probability = maps()
    total, count = [0.0] * 5, [0] * 5
    for image in probability:
        for pixel in image.flatten(1).T.double():
            label = int(pixel.argmax())
            total[label] -= float(sum(p * math.log(p) for p in pixel.tolist())) / math.log(5)
            count[label] += 1
    expected = torch.tensor([t / n for t, n in zip(total, count, strict=True)]).double()
    torch.testing.assert_close(mean_class_entropy(summed(probability)), expected, atol=1e-6, rtol=0)


def test_parts_of_a_set_add_up_to_the_last_bit():
    probability = maps(images=9)
    parts = [summed(part) for part in probability.split([1, 5, 3])]
    assert torch.equal(sum(parts), summed(probability))


def test_a_class_that_is_never_predicted_is_the_most_uncertain():
    probability = maps()
    probability[:, 3] = 0
    entropy = mean_class_entropy(summed(probability))
    assert entropy[3] == 1 and by_uncertainty(entropy)[0] == 3


def test_the_first_of_equally_uncertain_classes_comes_first():
    assert by_uncertainty(torch.tensor([0.2, 0.9, 0.1, 0.9, 0.5])) == [1, 3, 4, 0, 2]


def test_entropy_of_probabilities_is_that_of_their_logits():
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    mine = probability_entropy(logits.softmax(dim=1))
    torch.testing.assert_close(mine.float(), normalized_entropy(logits), atol=1e-6, rtol=0)
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert probability_entropy(certain) == 0 and probability_entropy(certain * 0 + 0.5) == 1
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        probability_entropy(certain[:, :1])
