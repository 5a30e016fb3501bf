"""The loss of queries: who is matched, what counts, and that processes add up."""

import pytest
import torch
from torch import Tensor

from sfseg.networks.heads.mask2former import criterion as module
from sfseg.networks.heads.mask2former.criterion import MaskCriterion, Sums
from sfseg.networks.heads.mask2former.mask_decoder import Prediction
from sfseg.types import IGNORE


def perfect(label: Tensor, num_classes: int, queries: int) -> Prediction:
    """Query k is sure of the mask of class k, the others of nothing."""
    classes = torch.full((len(label), queries, num_classes + 1), -20.0)
    masks = torch.full((len(label), queries, *label.shape[1:]), -20.0)
    for image, own in enumerate(label):
        for query in range(queries):
            inside = own == query
            is_there = query < num_classes and bool(inside.any())
            classes[image, query, query if is_there else num_classes] = 20
            masks[image, query][inside] = 20
    return Prediction(classes, masks)


def blocks() -> Tensor:
    label = torch.full((2, 16, 24), IGNORE)
    label[0, :8], label[0, 8:, :12] = 0, 2
    label[1, :, 8:] = 1
    return label


def test_what_is_right_costs_nothing_in_any_order_of_queries() -> None:
    label, criterion = blocks(), MaskCriterion(points=200, uncertain_share=0.0)
    found = perfect(label, 3, 5)
    torch.manual_seed(0)
    order = torch.tensor([3, 1, 4, 0, 2])
    for shown in (found, Prediction(found.classes[:, order], found.masks[:, order])):
        terms = criterion.terms(criterion.sums([shown], label))
        assert float(terms["mask_classes"]) < 1e-6
        # Between two cells, points mix true masks as they do the logits.
        assert float(terms["mask_dice"]) < 1 and float(terms["mask_cross_entropy"]) < 3
    wrong = Prediction(found.classes, torch.full_like(found.masks, -20.0))
    terms = criterion.terms(criterion.sums([wrong], label))
    assert float(terms["mask_dice"]) > 4


def test_pixels_without_a_label_are_outside_or_do_not_count() -> None:
    label = blocks()
    found = perfect(label, 3, 5)
    claims = found.masks.clone()
    claims[0, 0][label[0] == IGNORE] = 20
    loose = Prediction(found.classes, claims)
    losses = {}
    for void in ("outside", "ignored"):
        criterion = MaskCriterion(points=400, void=void)  # type: ignore[arg-type]
        for name, shown in (("exact", found), ("loose", loose)):
            torch.manual_seed(0)
            terms = criterion.terms(criterion.sums([shown], label))
            losses[void, name] = float(terms["mask_cross_entropy"])
    assert losses["outside", "loose"] > losses["outside", "exact"] + 3
    assert losses["ignored", "loose"] < losses["ignored", "exact"] + 1


def test_padding_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(masks: Tensor, number: int, **_: float) -> Tensor:
        """The same for all masks: which are uncertain depends on what is there."""
        return torch.rand(len(masks), number, 2, generator=torch.Generator().manual_seed(1))

    monkeypatch.setattr(module, "uncertain_points", points)
    label, criterion = blocks(), MaskCriterion(points=300)
    shown = torch.ones_like(label, dtype=torch.bool)
    shown[:, :, 20:] = False
    label = label.masked_fill(~shown, IGNORE)
    found = perfect(label, 3, 5)
    sums = []
    for value in (-20.0, 20.0):
        masks = found.masks.clone()
        masks[:, :, :, 21:] = value
        torch.manual_seed(0)
        sums.append(criterion.sums([Prediction(found.classes, masks)], label, shown))
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_an_image_without_a_label_teaches_nothing() -> None:
    label, criterion = blocks(), MaskCriterion(points=50)
    torch.manual_seed(0)
    found = Prediction(torch.randn(2, 5, 4), torch.randn(2, 5, 8, 12))
    found = Prediction(*(part.requires_grad_() for part in found))
    label[1] = IGNORE
    for own in (label, torch.full_like(label, IGNORE)):
        terms = criterion.terms(criterion.sums([found, found], own))
        loss = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(loss, list(found))
        assert bool(torch.isfinite(loss))
        for gradient in gradients:
            assert not gradient[1].any() and bool(torch.isfinite(gradient).all())
            assert bool(gradient[0].any()) == bool((own[0] != IGNORE).any())


def test_losses_of_processes_average_to_that_of_all_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one with many masks and one with few."""
    label, criterion = blocks(), MaskCriterion(points=50)
    torch.manual_seed(0)
    found = Prediction(torch.randn(2, 5, 4), torch.randn(2, 5, 8, 12))

    def sums(image: int) -> Sums:
        torch.manual_seed(image)
        own = Prediction(*(part[image : image + 1] for part in found))
        return criterion.sums([own], label[image : image + 1])

    each = [sums(0), sums(1)]
    assert [int(own.masks) for own in each] == [2, 1]
    both = each[0].plus(each[1])
    expected = criterion.terms(both)
    monkeypatch.setattr(module, "how_many", lambda: 2)
    monkeypatch.setattr(
        module, "sum_of_processes", lambda own: torch.stack([both.weight, both.masks])
    )
    alone = [criterion.terms(own) for own in each]
    for name, value in expected.items():
        torch.testing.assert_close((alone[0][name] + alone[1][name]) / 2, value)


def test_numbers_that_are_not_finite_reach_the_loss() -> None:
    label, criterion = blocks(), MaskCriterion(points=50)
    broken = Prediction(torch.full((2, 5, 4), torch.nan), torch.full((2, 5, 8, 12), torch.nan))
    terms = criterion.terms(criterion.sums([broken], label))
    assert not any(bool(torch.isfinite(term)) for term in terms.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 0}, "points"),
        ({"oversample": 0.5}, "oversample"),
        ({"uncertain_share": 1.5}, "uncertain_share"),
        ({"no_object": -0.1}, "no_object"),
        ({"void": "other"}, "void"),
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskCriterion(**settings)  # type: ignore[arg-type]
