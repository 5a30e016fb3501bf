import math

import numpy as np
import pytest
import torch

from sfseg.ops.losses import cross_entropy
from sfseg.ops.symmetric import reverse_cross_entropy, symmetric_cross_entropy
from sfseg.types import IGNORE


def case():
    rng = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 4, 3, 5, generator=rng, dtype=torch.float64)).requires_grad_()
    label = torch.randint(0, 4, (2, 3, 5), generator=rng, dtype=torch.uint8)
    label[1, 0] = IGNORE
    return logits, label


@pytest.mark.usefixtures("double")
def test_values_by_hand():
    logits, label = case()
    chance, total, pixels = logits.detach().softmax(dim=1), 0.0, 0
    for b, y, x in np.ndindex(*label.shape):
        if label[b, y, x] != IGNORE:
            target = [1.0 if k == int(label[b, y, x]) else 1e-4 for k in range(4)]
            total -= sum(
                float(p) * math.log(q) for p, q in zip(chance[b, :, y, x], target, strict=True)
            )
            pixels += 1
    reverse = reverse_cross_entropy(logits.detach(), label)
    assert float(reverse) == pytest.approx(total / pixels, rel=1e-9)
    both = symmetric_cross_entropy(logits.detach(), label, forward_weight=0.3, reverse_weight=2.0)
    torch.testing.assert_close(both, 0.3 * cross_entropy(logits.detach(), label) + 2 * reverse)


def test_without_labels_loss_and_gradient_are_0():
    logits, label = case()
    loss = symmetric_cross_entropy(logits, torch.full_like(label, IGNORE))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
