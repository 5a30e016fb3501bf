"""Disagreement of decoders."""

import pytest
import torch

from sfseg.ops.uncertainty import decoder_disagreement


@pytest.mark.usefixtures("double")
def test_it_is_the_sum_of_mean_squares_and_teaches_the_others_alone():
    rng = torch.Generator().manual_seed(0)
    logits, *others = (
        torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64).requires_grad_()
        for _ in range(4)
    )
    loss = decoder_disagreement(others, logits)
    expected = 0.0
    for other in others:
        pairs = zip(
            other.detach().softmax(dim=1).flatten().tolist(),
            logits.detach().softmax(dim=1).flatten().tolist(),
            strict=True,
        )
        expected += sum((p - q) ** 2 for p, q in pairs) / other.numel()
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert logits.grad is None and all(other.grad.any() for other in others)


def test_decoders_that_agree():
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    # A constant added to all scores changes no probability.
    assert decoder_disagreement([logits + 1, logits], logits).item() == pytest.approx(0, abs=1e-12)
