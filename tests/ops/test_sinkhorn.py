import math

import numpy as np
import pytest
import torch

from sfseg.ops.sinkhorn import self_labelling, sinkhorn, soft_cross_entropy


def case(samples=30, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    share = torch.rand(classes, generator=rng, dtype=torch.float64) + 0.1
    scores = torch.rand(samples, classes, generator=rng, dtype=torch.float64) * 2 - 1
    return scores, share / share.sum()


def by_hand(scores, share, epsilon, iterations):
    """Rows and columns scaled in turn, without logarithms."""
    kernel = np.exp(scores.numpy() / epsilon)
    for _ in range(iterations):
        kernel = kernel / kernel.sum(axis=0, keepdims=True) * share.numpy()
        kernel = kernel / kernel.sum(axis=1, keepdims=True)
    return torch.as_tensor(kernel)


@pytest.mark.parametrize("iterations", [1, 3, 50])
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
@pytest.mark.usefixtures("double")
def test_values_by_hand(epsilon, iterations):
    scores, share = case()
    assigned = sinkhorn(scores, share, epsilon=epsilon, iterations=iterations)
    expected = by_hand(scores, share, epsilon, iterations)
    torch.testing.assert_close(assigned, expected)


@pytest.mark.usefixtures("double")
def test_marginals_are_met_in_the_end():
    scores, share = case(samples=50)
    assigned = sinkhorn(scores, share, epsilon=0.3, iterations=200)
    torch.testing.assert_close(assigned.sum(dim=1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(assigned.mean(dim=0), share, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("double")
def test_a_class_without_share_gets_nothing_and_all_is_finite():
    scores, share = case()
    share[2] = 0
    assigned = sinkhorn(100 * scores, share / share.sum())
    assert not assigned[:, 2].any() and torch.isfinite(assigned).all()
    torch.testing.assert_close(assigned.sum(dim=1), torch.ones(30, dtype=torch.float64))


@pytest.mark.usefixtures("double")
def test_samples_and_classes_can_change_places():
    scores, share = case()
    order, classes = torch.randperm(30), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        sinkhorn(scores[order][:, classes], share[classes]),
        sinkhorn(scores, share)[order][:, classes],
    )


@pytest.mark.usefixtures("double")
def test_the_share_decides_where_scores_do_not():
    _, share = case()
    assigned = sinkhorn(torch.zeros(5, 4, dtype=torch.float64), share, iterations=1)
    torch.testing.assert_close(assigned, share.expand(5, -1))


@pytest.mark.usefixtures("double")
def test_cross_entropy_by_hand():
    scores, assignment = case()[0][None], case(seed=1)[0].softmax(dim=1)[None]
    total = 0.0
    for own, goal in zip(scores[0], assignment[0], strict=True):
        powers = [math.exp(score / 0.5) for score in own.tolist()]
        total -= sum(
            q * math.log(p / sum(powers)) for p, q in zip(powers, goal.tolist(), strict=True)
        )
    loss = soft_cross_entropy(scores, assignment, temperature=0.5)
    assert float(loss) == pytest.approx(total / 30, rel=1e-9)


@pytest.mark.parametrize("earlier", [0, 6])
@pytest.mark.usefixtures("double")
def test_self_labelling_is_cross_entropy_with_assignments_image_by_image(earlier: int) -> None:
    torch.manual_seed(0)
    features, kept = torch.randn(2, 7, 5).double(), torch.randn(earlier, 5).double()
    features, kept = (part / part.norm(dim=-1, keepdim=True) for part in (features, kept))
    prototypes = (3 * torch.randn(4, 5)).double().requires_grad_()
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    loss = self_labelling(features, prototypes, kept, share, temperature=0.1, epsilon=0.2)
    expected = 0.0
    for image in features:
        rows = torch.cat([kept, image])
        cosine = torch.tensor(
            [[float(r @ p / p.norm()) for p in prototypes.detach()] for r in rows],
            dtype=torch.float64,
        )
        plan = (cosine / 0.2).exp()
        for _ in range(3):
            plan = plan * (share / plan.sum(dim=0))
            plan = plan / plan.sum(dim=1, keepdim=True)
        chance = (cosine / 0.1).softmax(dim=1)
        expected -= float((plan * chance.log())[earlier:].sum()) / 14
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert prototypes.grad is not None
    # Their length is no matter, so that none of the gradient changes it.
    along = (prototypes.grad * prototypes.detach()).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)
