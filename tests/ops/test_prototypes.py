import math

import numpy as np
import pytest
import torch

from sfseg.ops.prototypes import class_sums, cosine_scores, prototype_consistency, rectified_label
from sfseg.types import IGNORE

CLASSES = 4


def case(seed=0, channels=5, size=(2, 3)):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, *size, generator=rng, dtype=torch.float64)
    return features, torch.randn(CLASSES, channels, generator=rng, dtype=torch.float64)


def softmax(row):
    powers = np.exp(row - row.max())
    return powers / powers.sum()


@pytest.mark.usefixtures("double")
def test_scores_by_hand():
    features, prototypes = case()
    scores = cosine_scores(features, prototypes)
    for b, k, y, x in np.ndindex(*scores.shape):
        mine, theirs = features[b, :, y, x], prototypes[k]
        angle = float(mine @ theirs / (mine.norm() * theirs.norm()))
        assert float(scores[b, k, y, x]) == pytest.approx(angle, abs=1e-12)


@pytest.mark.usefixtures("double")
def test_scores_do_not_depend_on_lengths_and_are_finite_without_any():
    features, prototypes = case()
    scores = cosine_scores(features, prototypes)
    torch.testing.assert_close(cosine_scores(7 * features, 0.1 * prototypes), scores)
    assert not cosine_scores(0 * features, prototypes).any()


def test_scores_are_precise_under_autocast():
    features, prototypes = case()
    with torch.autocast("cpu", torch.bfloat16):
        scores = cosine_scores(features, prototypes)
    torch.testing.assert_close(scores, cosine_scores(features, prototypes))


@pytest.mark.usefixtures("double")
def test_rectified_label_by_hand():
    rng = torch.Generator().manual_seed(1)
    scores = torch.rand(2, CLASSES, 3, 5, generator=rng, dtype=torch.float64) * 2 - 1
    logits = 5 * torch.randn(2, CLASSES, 3, 5, generator=rng, dtype=torch.float64)
    label = rectified_label(scores, logits, temperature=0.4)
    assert (label != logits.argmax(dim=1)).any() and (label != scores.argmax(dim=1)).any()
    for b, y, x in np.ndindex(*label.shape):
        weight = softmax(scores[b, :, y, x].numpy() / 0.4)
        product = weight * softmax(logits[b, :, y, x].numpy())
        assert int(label[b, y, x]) == product.argmax()


def test_equal_scores_leave_a_label_as_it_is():
    logits = torch.randn(1, CLASSES, 4, 4, generator=torch.Generator().manual_seed(2))
    label = rectified_label(torch.full_like(logits, 0.3), logits, temperature=0.08)
    assert torch.equal(label, logits.argmax(dim=1))


@pytest.mark.usefixtures("double")
def test_consistency_by_hand():
    student, teacher = (case(seed)[0][:, :CLASSES].tanh() for seed in (3, 4))
    total, pixels = 0.0, 0
    for b, y, x in np.ndindex(2, 2, 3):
        p, q = (softmax(v[b, :, y, x].numpy() / 0.2) for v in (teacher, student))
        total += sum(a * math.log(a / c) for a, c in zip(p, q, strict=True))
        pixels += 1
    value = prototype_consistency(student, teacher, temperature=0.2)
    assert float(value) == pytest.approx(total / pixels / CLASSES, rel=1e-9)
    assert float(prototype_consistency(teacher, teacher, temperature=0.2)) == pytest.approx(0)


@pytest.mark.usefixtures("double")
def test_class_sums_by_hand():
    features, _ = case(size=(4, 4))
    label = torch.randint(0, CLASSES - 1, (2, 4, 4), generator=torch.Generator().manual_seed(5))
    label[0, 0] = IGNORE
    sums, counts = class_sums(features, label.to(torch.uint8), num_classes=CLASSES)
    for k in range(CLASSES):
        rows = features.permute(0, 2, 3, 1)[label == k]
        torch.testing.assert_close(sums[k], rows.sum(dim=0))
        assert int(counts[k]) == len(rows)
    assert int(counts.sum()) == 28 and not sums[-1].any()
