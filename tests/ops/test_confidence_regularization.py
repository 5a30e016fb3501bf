"""The regulariser of CRST-MRKLD against a loop."""

import math

import pytest
import torch

from sfseg.ops.confidence_regularization import uniform_divergence
from sfseg.types import IGNORE


@pytest.mark.usefixtures("double")
def test_it_is_the_mean_over_labelled_pixels():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    label = torch.zeros(2, 4, 5, dtype=torch.uint8)
    label[0, :2] = IGNORE
    total, count = 0.0, 0
    for b in range(2):
        for y in range(4):
            for x in range(5):
                if label[b, y, x] != IGNORE:
                    chances = logits[b, :, y, x].softmax(dim=0).tolist()
                    total -= sum(math.log(p) for p in chances) / 3
                    count += 1
    assert uniform_divergence(logits, label).item() == pytest.approx(total / count, rel=1e-9)
    # Which class a label names does not matter.
    assert torch.equal(
        uniform_divergence(logits, label),
        uniform_divergence(logits, label.masked_fill(label == 0, 2)),
    )


@pytest.mark.usefixtures("double")
def test_it_is_least_where_all_classes_are_alike():
    label = torch.zeros(1, 1, 1, dtype=torch.uint8)
    alike = uniform_divergence(torch.zeros(1, 7, 1, 1), label)
    assert alike.item() == pytest.approx(math.log(7))
    assert uniform_divergence(torch.randn(1, 7, 1, 1), label) > alike


def test_without_labels_it_is_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = uniform_divergence(logits, torch.full((1, 2, 2), IGNORE, dtype=torch.uint8))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
