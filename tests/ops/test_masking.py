import colorsys

import numpy as np
import pytest
import torch

from sfseg.ops.masking import (
    LUMA,
    RADIUS,
    block_mask,
    blur,
    scale_colours,
    shift_hue,
    strong_view,
)


def images(batch=3, size=(6, 9), low=0.3, high=0.6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, *size, generator=rng, dtype=torch.float64)
    return low + (high - low) * image


@pytest.mark.parametrize("block", [1, 4, 7, 50])
@pytest.mark.parametrize("size", [(16, 24), (13, 9)])
def test_blocks_are_hidden_whole(size, block):
    torch.manual_seed(0)
    mask = block_mask(torch.zeros(6, 3, *size), ratio=0.5, block=block)
    assert mask.shape == (6, 1, *size) and mask.dtype == torch.bool
    for y, x in np.ndindex(*size):
        corner = mask[:, 0, y - y % block, x - x % block]
        assert torch.equal(mask[:, 0, y, x], corner)
    assert 0 < mask.float().mean() < 1


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7, 1.0])
def test_the_ratio_is_the_share_of_hidden_blocks(ratio):
    torch.manual_seed(0)
    mask = block_mask(torch.zeros(8, 1, 128, 128), ratio=ratio, block=2)
    hidden = 1 - mask.float().mean().item()
    assert hidden == pytest.approx(ratio, abs=0.01 if 0 < ratio < 1 else 0)


@pytest.mark.parametrize(
    ("ratio", "block", "match"),
    [
        (-0.1, 8, r"ratio must be in \[0, 1\], got -0.1"),
        (1.1, 8, r"ratio must be in \[0, 1\], got 1.1"),
        (0.5, 0, "block must be at least 1 pixel, got 0"),
    ],
)
def test_bad_masks_are_refused(ratio, block, match):
    with pytest.raises(ValueError, match=match):
        block_mask(torch.zeros(1, 3, 4, 4), ratio=ratio, block=block)


def test_colours_are_those_of_a_loop_over_pixels():
    image = images().numpy()
    factors = np.array([[0.8, 1.2, 1.1], [1.2, 0.7, 0.9], [1.0, 1.0, 1.3]])
    expected = np.empty_like(image)
    for k, (brightness, contrast, saturation) in enumerate(factors):
        grey = np.tensordot(LUMA, image[k], 1)
        for y, x in np.ndindex(grey.shape):
            colour = grey[y, x] + saturation * (image[k, :, y, x] - grey[y, x])
            colour = grey.mean() + contrast * (colour - grey.mean())
            expected[k, :, y, x] = np.clip(brightness * colour, 0, 1)
    changed = scale_colours(images(), *torch.tensor(factors).T)
    np.testing.assert_allclose(changed, expected)


def test_factors_of_one_and_zero():
    image = images()
    one, zero = torch.ones(3), torch.zeros(3)
    torch.testing.assert_close(scale_colours(image, one, one, one), image)
    grey = scale_colours(image, one, one, zero)
    torch.testing.assert_close(grey[:, :1].expand_as(grey), grey)
    flat = scale_colours(image, one, zero, one)
    torch.testing.assert_close(flat.amax(dim=(1, 2, 3)), flat.amin(dim=(1, 2, 3)))
    assert scale_colours(image, 9 * one, one, one).max() == 1


def test_blur_is_that_of_a_loop_over_pixels():
    image, sigma = images(low=0, high=1).numpy(), np.array([0.4, 1.15, 0.8])
    expected = np.zeros_like(image)
    height, width = image.shape[2:]
    for k, deviation in enumerate(sigma):
        steps = np.arange(-RADIUS, RADIUS + 1)
        weight = np.exp(-0.5 * (steps / deviation) ** 2)
        weight = np.outer(weight, weight) / weight.sum() ** 2
        for y, x in np.ndindex(height, width):
            rows = np.clip(y + steps, 0, height - 1)
            columns = np.clip(x + steps, 0, width - 1)
            window = image[k][:, rows][:, :, columns]
            expected[k, :, y, x] = (window * weight).sum(axis=(1, 2))
    blurred = blur(images(low=0, high=1), torch.tensor(sigma))
    np.testing.assert_allclose(blurred, expected)


def test_blur_of_nothing():
    image = images(size=(2, 3))
    assert torch.equal(blur(image, torch.zeros(3)), image)
    flat = torch.full((2, 3, 4, 5), 0.3)
    torch.testing.assert_close(blur(flat, torch.tensor([0.7, 1.1])), flat)


def view(seed=0, **options):
    torch.manual_seed(seed)
    return strong_view(images(low=0, high=1), **{"strength": 0.5, **options})


@pytest.mark.parametrize("turns", [0.0, 0.2, -0.2, 1 / 3, 0.75, 1.0])
def test_the_hue_is_shifted_as_colorsys_does(turns):
    image = images(2, low=0, high=1)
    image[0, :, 0, :4] = torch.tensor(
        [[0.0, 1.0, 0.5, 1.0], [0.0, 1.0, 0.5, 0.0], [0.0, 1.0, 0.5, 0.0]]
    )
    shifted = shift_hue(image, torch.tensor([turns, 0.0], dtype=torch.float64))
    torch.testing.assert_close(shifted[1], image[1])
    for y, x in np.ndindex(*image.shape[2:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[0, :, y, x].tolist())
        expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
        assert shifted[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_strong_view_shifts_the_hue_of_some_images():
    torch.manual_seed(0)
    red = torch.tensor([0.8, 0.1, 0.1])[None, :, None, None].expand(64, 3, 2, 2)
    changed = strong_view(red, strength=0.0, hue=0.2, blur_probability=0.0)
    kept = sum(torch.allclose(one, red[0], atol=1e-6) for one in changed)
    assert 4 < kept < 24  # a fifth of 64
    value, least = changed.amax(dim=1), changed.amin(dim=1)
    torch.testing.assert_close(value, torch.full_like(value, 0.8))
    torch.testing.assert_close(least, torch.full_like(least, 0.1))
    # A fifth of a turn is more than red to yellow (1/6) and less than red to green (1/3).
    assert (changed[:, 0] >= 0.1 + 0.7 * 0.8 - 1e-6).all() and changed[:, 1].max() == pytest.approx(
        0.8
    )


def test_the_strong_view_follows_the_global_generator():
    assert torch.equal(view(1), view(1)) and not torch.equal(view(1), view(2))
    assert view().min() >= 0 and view().max() <= 1


def test_without_strength_or_chance_nothing_changes():
    image = images(low=0, high=1)
    torch.testing.assert_close(view(strength=0.0, blur_probability=0.0), image)
    torch.testing.assert_close(view(probability=0.0, blur_probability=0.0), image)
    assert not torch.allclose(view(probability=0.0, blur_probability=1.0), image, atol=1e-3)


def test_each_image_is_changed_by_itself():
    torch.manual_seed(0)
    same = images(1, low=0.2, high=0.4).expand(64, -1, -1, -1)
    changed = strong_view(same, strength=0.2, blur_probability=0.0)
    kept = sum(torch.allclose(one, same[0], atol=1e-6) for one in changed)
    assert 4 < kept < 24  # a fifth of 64
    brightness = changed.mean(dim=(1, 2, 3)) / same[0].mean()
    assert 0.79 < brightness.min() < 0.9 and 1.1 < brightness.max() < 1.21


def test_autocast_does_not_make_it_coarse():
    exact = view()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view(), exact)
