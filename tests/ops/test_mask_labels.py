"""Label maps made of masks, against loops over pixels."""

import pytest
import torch

from sfseg.ops.mask_labels import best_masks, claimed_label
from sfseg.types import IGNORE


def looped(masks, label, iou, clear):
    made = torch.full(masks.shape[1:], IGNORE, dtype=torch.uint8)
    for y in range(masks.shape[1]):
        for x in range(masks.shape[2]):
            own = [k for k in range(len(masks)) if masks[k, y, x]]
            if own and (len(own) == 1 or not clear):
                made[y, x] = label[max(own, key=lambda k: iou[k])]
    return made


@pytest.mark.parametrize("clear", [True, False])
def test_every_pixel_goes_to_whoever_claims_it(clear):
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 6, 9, generator=rng) < 0.3
    label, iou = torch.tensor([3, 0, 3, 18]), torch.rand(4, generator=rng)
    made = claimed_label(masks, label, iou, clear_overlaps=clear)
    assert torch.equal(made, looped(masks, label, iou, clear))
    both = masks[0] & masks[2]  # of one class
    assert both.any() and ((made[both] == IGNORE).all() or not clear)


def test_without_masks_there_are_no_labels():
    made = claimed_label(
        torch.zeros(0, 2, 3, dtype=torch.bool), torch.zeros(0).long(), torch.zeros(0)
    )
    assert made.dtype == torch.uint8 and (made == IGNORE).all() and made.shape == (2, 3)


def test_the_best_mask_is_that_of_the_highest_iou():
    masks = torch.arange(12.0).reshape(2, 3, 1, 2)
    best, iou = best_masks(masks, torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]]))
    assert best.tolist() == [[[2.0, 3.0]], [[6.0, 7.0]]]
    assert iou.tolist() == pytest.approx([0.9, 0.5])
