import math
from itertools import permutations

import numpy as np
import pytest
import torch

from sfseg.ops.class_mix import class_mask, paste, rarity
from sfseg.types import IGNORE

CLASSES = 6


def labels(batch=40, size=(5, 7), seed=0):
    rng = np.random.default_rng(seed)
    label = np.full((batch, *size), IGNORE, np.uint8)
    for image in label:
        some = rng.permutation([*range(CLASSES), IGNORE])[: rng.integers(1, CLASSES + 2)]
        image[...] = rng.choice(some, size)
    return torch.from_numpy(label)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.1, 1.0, 2.0, 3.0, 50.0, 1e3])])
def test_half_of_an_images_classes_are_taken_whole(weight):
    label = labels()
    torch.manual_seed(0)
    taken = class_mask(label, num_classes=CLASSES, weight=weight)
    assert taken.shape == label.shape
    for own, mask in zip(label, taken, strict=True):
        present = sorted(set(own.unique().tolist()) - {IGNORE})
        whole = [k for k in present if mask[own == k].all()]
        none = [k for k in present if not mask[own == k].any()]
        assert len(whole) == -(-len(present) // 2) and len(whole) + len(none) == len(present)
        assert not mask[own == IGNORE].any()


def test_of_the_batch_classes_of_any_image_are_drawn_and_void_too():
    label = torch.tensor([[[0, 1, 2]], [[3, 4, IGNORE]]])
    taken = torch.stack([
        class_mask(label, num_classes=CLASSES, of_batch=True)[:, 0] for _ in range(400)
    ])  # fmt: skip
    drawn = taken.sum(dim=2)  # of each image, how many of its three
    assert set(drawn.unique().tolist()) == {0, 1, 2, 3}
    # Three of six, each image on its own: any pixel in half of the draws.
    torch.testing.assert_close(taken.float().mean(dim=0), torch.full((2, 3), 0.5), atol=0.1, rtol=0)
    both = (drawn[:, 0] + drawn[:, 1]).unique()
    assert len(both) > 1, "images draw for themselves"


@pytest.mark.parametrize("of_batch", [False, True])
def test_what_may_not_be_taken_is_as_if_it_were_not_there(of_batch):
    label = labels(size=(5, 4)) % CLASSES
    wide = torch.nn.functional.pad(label, (0, 3), value=2)
    wide[..., 5:] = IGNORE
    valid = torch.zeros(wide.shape, dtype=torch.bool)
    valid[..., :4] = True
    for seed in range(5):
        torch.manual_seed(seed)
        alone = class_mask(label, num_classes=CLASSES, of_batch=of_batch)
        torch.manual_seed(seed)
        taken = class_mask(wide, num_classes=CLASSES, of_batch=of_batch, valid=valid)
        assert torch.equal(taken[..., :4], alone) and not taken[..., 4:].any()


def test_one_class_is_taken_and_no_class_is_not():
    label = torch.stack([torch.full((2, 3), k) for k in (0, CLASSES - 1, IGNORE)]).to(torch.uint8)
    taken = class_mask(label, num_classes=CLASSES)
    assert taken.flatten(1).all(dim=1).tolist() == [True, True, False]
    assert not taken[2].any()


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 6.0]])
def test_a_class_is_drawn_in_proportion_to_its_weight(weight):
    """How often a class is among the two of three, summed over all orders of drawing."""
    rate = np.ones(3) if weight is None else np.array(weight)
    expected = np.zeros(3)
    for order in permutations(range(3)):
        chance = rate[order[0]] / rate.sum() * rate[order[1]] / rate[list(order[1:])].sum()
        expected[list(order[:2])] += chance
    label = torch.arange(3).expand(20_000, 1, 3)
    torch.manual_seed(1)
    given = None if weight is None else torch.tensor(weight)
    found = class_mask(label, num_classes=3, weight=given).float().mean(dim=0)[0]
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_the_draw_follows_the_global_generator_and_differs_between_images():
    label = torch.arange(4).expand(16, 1, 4)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(class_mask(label, num_classes=4))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert len(draws[0].flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("channels", [None, 3])
def test_pasting_is_that_of_a_loop_over_pixels(batch, channels):
    rng = np.random.default_rng(batch)
    shape = (batch, 4, 3) if channels is None else (batch, channels, 4, 3)
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    taken = rng.random((batch, 4, 3)) < 0.5
    expected = values.copy()
    for k, y, x in np.ndindex(taken.shape):
        if taken[k, y, x]:
            expected[(k + 1) % batch, ..., y, x] = values[k, ..., y, x]
    pasted = paste(torch.from_numpy(values), torch.from_numpy(taken))
    assert pasted.dtype == torch.uint8
    np.testing.assert_array_equal(pasted, expected)
    assert (batch > 1) == (not np.array_equal(expected, values))


def test_rarity_is_that_of_the_formula() -> None:
    pixels = torch.tensor([900.0, 90.0, 10.0, 0.0], dtype=torch.float64)
    expected = [1 / math.log(1.01 + share) for share in (0.9, 0.09, 0.01, 0.0)]
    torch.testing.assert_close(rarity(pixels), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(rarity(3 * pixels), rarity(pixels))
    nothing = rarity(torch.zeros(4))
    torch.testing.assert_close(nothing, nothing[:1].expand(4))
    assert float(nothing[0]) == pytest.approx(100.5, abs=0.1)
