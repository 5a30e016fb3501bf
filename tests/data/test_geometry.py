import itertools

import cv2
import numpy as np
import pytest
from make import ids
from PIL import Image

from sfseg.data.geometry import (
    EvalView,
    Geometry,
    View,
    crop_image,
    crop_label,
    largest_share,
    pad_label,
    resize_image,
    resize_label,
    restore_label,
    size_by,
)
from sfseg.types import IGNORE

HIDDEN = 200
"""A value that no label has: what a crop does not show."""


def random_geometry(seed, low=1.0, high=1.0, whole_scale=True):
    """A crop anywhere in an image of odd or even size, often all of it."""
    rng = np.random.default_rng(seed)
    full = tuple(int(n) for n in rng.integers(1, 40, 2))
    factors = np.full(2, rng.uniform(low, high)) if whole_scale else rng.uniform(low, high, 2)
    scaled = tuple(max(1, round(n * f)) for n, f in zip(full, factors, strict=True))
    crop = tuple(min(int(n), s) for n, s in zip(rng.integers(1, 50, 2), scaled, strict=True))
    corner = tuple(int(rng.integers(s - c + 1)) for s, c in zip(scaled, crop, strict=True))
    return Geometry(*full, *scaled, *corner, *crop, int(rng.integers(2)))


def distinct(geometry):
    """A label of the full image with a different value in (almost) every pixel."""
    size = (geometry.full_height, geometry.full_width)
    return (np.arange(size[0] * size[1]).reshape(size) * 7 % HIDDEN).astype(np.uint8)


def shown(geometry):
    """Naively: the full-image pixels whose centre lies in the crop."""
    g, mask = geometry, np.zeros((geometry.full_height, geometry.full_width), bool)
    for y, x in np.ndindex(*mask.shape):
        row = (2 * y + 1) * g.scaled_height // (2 * g.full_height) - g.top
        column = (2 * x + 1) * g.scaled_width // (2 * g.full_width) - g.left
        mask[y, x] = 0 <= row < g.height and 0 <= column < g.width
    return mask


def restored(cropped, geometry):
    full = np.full((geometry.full_height, geometry.full_width), HIDDEN, np.uint8)
    restore_label(cropped, geometry, full)
    return full


@pytest.mark.parametrize("seed", range(200))
def test_crop_and_flip_are_undone_exactly(seed):
    geometry = random_geometry(seed)
    label = distinct(geometry)
    back = restored(crop_label(label, geometry), geometry)
    g, expected = geometry, np.full_like(label, HIDDEN)
    place = np.s_[g.top : g.top + g.height, g.left : g.left + g.width]
    expected[place] = label[place]
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("whole_scale", [True, False])
def test_enlarging_is_undone_exactly(seed, whole_scale):
    geometry = random_geometry(seed, 1.0, 3.0, whole_scale)
    label = distinct(geometry)
    back = restored(crop_label(label, geometry), geometry)
    np.testing.assert_array_equal(back, np.where(shown(geometry), label, HIDDEN))


@pytest.mark.parametrize("seed", range(200))
def test_reducing_is_undone_where_it_can_be(seed):
    geometry = random_geometry(seed, 0.2, 1.0, whole_scale=False)
    label = distinct(geometry)
    cropped = crop_label(label, geometry)
    back = restored(cropped, geometry)
    np.testing.assert_array_equal(back != HIDDEN, shown(geometry))
    # What the crop saw is back in its own place: looking again sees the same.
    np.testing.assert_array_equal(crop_label(back, geometry), cropped)


def test_restoring_leaves_the_rest_alone():
    full = np.full((6, 8), 9, np.uint8)
    restore_label(np.ones((2, 3), np.uint8), Geometry(6, 8, 6, 8, 1, 2, 2, 3, 0), full)
    assert (full[1:3, 2:5] == 1).all()
    assert (full == 9).sum() == 48 - 6


@pytest.mark.parametrize(("cropped", "full"), [((3, 2), (6, 8)), ((2, 3), (8, 6))])
def test_restoring_into_another_size_is_refused(cropped, full):
    geometry = Geometry(6, 8, 6, 8, 1, 2, 2, 3, 0)
    with pytest.raises(ValueError, match=r"sizes \(2, 3\) and \(6, 8\) of the geometry"):
        restore_label(np.zeros(cropped, np.uint8), geometry, np.zeros(full, np.uint8))


@pytest.mark.parametrize(
    ("full", "scaled"),
    [
        ((32, 64), (16, 32)), ((32, 64), (64, 128)), ((33, 65), (11, 13)), ((7, 9), (20, 31)),
        ((5, 5), (5, 5)), ((1, 1), (4, 4)), ((9, 10), (1, 1)), ((100, 30), (36, 28)),
    ],
)  # fmt: skip
def test_labels_are_resized_as_by_opencv_and_pil(full, scaled):
    label = ids(0, 19, full) if min(full) > 4 else np.full(full, 3, np.uint8)
    whole = crop_label(label, Geometry.whole(full, scaled))
    opencv = cv2.resize(label, scaled[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(whole, opencv)
    pil = Image.fromarray(label).resize(scaled[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(whole, np.asarray(pil))


@pytest.mark.parametrize("seed", range(40))
def test_images_are_resized_then_cropped_and_flipped(seed):
    g = random_geometry(seed, 0.5, 2.0)
    rng = np.random.default_rng(seed)
    image = rng.integers(256, size=(g.full_height, g.full_width, 3)).astype(np.uint8)
    scaled = cv2.resize(image, (g.scaled_width, g.scaled_height), interpolation=cv2.INTER_LINEAR)
    expected = np.empty((g.height, g.width, 3), np.uint8)
    for y, x in np.ndindex(g.height, g.width):
        expected[y, x] = scaled[g.top + y, g.left + x]
    if g.flip:
        expected = expected[:, ::-1]
    found = crop_image(image, g)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(60))
def test_image_and_label_stay_aligned(seed):
    """Both are painted with their own coordinates; after any view they still agree."""
    g = random_geometry(seed, 0.3, 3.0, whole_scale=False)
    rows, columns = np.indices((g.full_height, g.full_width)).astype(np.uint8)
    image = crop_image(np.stack([rows, columns, rows], axis=2), g).astype(int)
    for channel, coordinate in enumerate((rows, columns)):
        label = crop_label(coordinate, g)
        # Half a pixel from the centre to the nearest, half from rounding to bytes.
        assert np.abs(image[..., channel] - label).max() <= 1


def test_inputs_stay_as_they_are():
    label, image = ids(0, 3), np.zeros((32, 64, 3), np.uint8)
    before = label.copy()
    view = View((16, 16), ratio=(0.5, 2), flip=1)
    geometry = view.draw(label, np.random.default_rng(0))
    crop_label(label, geometry)[:] = 7
    crop_image(image, geometry)
    np.testing.assert_array_equal(label, before)
    assert not image.any()


@pytest.mark.parametrize("full", [(32, 64), (10, 11), (1, 1), (200, 20)])
@pytest.mark.parametrize("crop", [(16, 16), (33, 65), (64, 8)])
def test_drawn_crops_lie_in_the_image_and_have_their_size_if_they_fit(full, crop):
    rng = np.random.default_rng(0)
    view = View(crop, ratio=(0.5, 2.0))
    label = np.zeros(full, np.uint8)
    for _ in range(50):
        g = view.draw(label, rng)
        assert (g.full_height, g.full_width) == full
        size = min(crop[0], g.scaled_height), min(crop[1], g.scaled_width)
        assert (g.height, g.width) == size
        assert 0 <= g.top <= g.scaled_height - g.height
        assert 0 <= g.left <= g.scaled_width - g.width
        for side, scaled in ((full[0], g.scaled_height), (full[1], g.scaled_width)):
            assert max(1, round(side * 0.5)) <= scaled <= round(side * 2)
        assert crop_label(label, g).shape == size
        assert (crop_label(label, g) == 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_larger_crop_shows_the_same_picture_mirrored_as_often(seed):
    """An image that is smaller than the crop is all that is seen of it."""
    image = np.random.default_rng(seed).integers(256, size=(6, 9, 3)).astype(np.uint8)
    views = (View(crop, ratio=(0.5, 1.5)) for crop in ((9, 14), (40, 14), (500, 800)))
    drawn = [view.draw(image[..., 0], np.random.default_rng(seed)) for view in views]
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[0][4:8] == (0, 0, *drawn[0][2:4])
    whole = resize_image(image, drawn[0][2:4])
    np.testing.assert_array_equal(
        crop_image(image, drawn[0]), whole[:, ::-1] if drawn[0].flip else whole
    )


def test_crops_that_fit_are_those_of_the_same_draws():
    """What is drawn does not depend on whether some side of the crop is cut short."""
    label = np.zeros((20, 30), np.uint8)
    for seed in range(50):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        fits = View((10, 10)).draw(label, rngs[0])
        longer = View((10, 99)).draw(label, rngs[1])
        assert (fits.top, fits.flip) == (longer.top, longer.flip)
        rng = np.random.default_rng(seed)
        flip, top, left = int(rng.random() < 0.5), int(rng.integers(11)), int(rng.integers(21))
        assert fits == (20, 30, 20, 30, top, left, 10, 10, flip)
        assert [r.random() for r in rngs] == [rng.random()] * 2


def test_crops_of_earlier_versions_reached_past_the_image():
    """Padding below, and to the right before they were mirrored: it is not written anywhere."""
    full = np.full((2, 3), HIDDEN, np.uint8)
    seen = np.array([[9, 9, 2, 1, 0], [9, 9, 5, 4, 3], [9, 9, 9, 9, 9]], np.uint8)
    restore_label(seen, Geometry(2, 3, 2, 3, 0, 0, 3, 5, 1), full)
    np.testing.assert_array_equal(full, [[0, 1, 2], [3, 4, 5]])


def test_labels_are_padded_below_and_to_the_right():
    label = np.array([[1, 2, 3]], np.uint8)
    expected = [[1, 2, 3, IGNORE], [IGNORE] * 4]
    np.testing.assert_array_equal(pad_label(label, (2, 4)), expected)
    assert pad_label(label, (1, 3)) is label


def test_every_corner_flip_and_scale_is_drawn():
    rng = np.random.default_rng(0)
    label = np.zeros((6, 5), np.uint8)
    drawn = {View((4, 4)).draw(label, rng) for _ in range(300)}
    expected = {(t, x, f) for t, x, f in itertools.product(range(3), range(2), range(2))}
    assert {(g.top, g.left, g.flip) for g in drawn} == expected
    scales = {View((4, 4), ratio=(0.5, 2)).draw(label, rng).scaled_height for _ in range(300)}
    assert scales == set(range(3, 13))


@pytest.mark.parametrize(("flip", "share"), [(0.0, 0), (1.0, 1), (0.25, 0.25)])
def test_flips_have_their_probability(flip, share):
    rng, label = np.random.default_rng(0), np.zeros((4, 4), np.uint8)
    drawn = [View((4, 4), flip=flip).draw(label, rng).flip for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(share, abs=0.03)


def test_resize_comes_before_the_ratio():
    view = View((4, 4), resize=(30, 20), ratio=(2, 2))
    g = view.draw(np.zeros((100, 100), np.uint8), np.random.default_rng(0))
    assert (g.scaled_height, g.scaled_width) == (60, 40)


def test_a_crop_of_one_class_is_drawn_again():
    label = np.zeros((16, 64), np.uint8)
    label[:, 48:] = 1
    shares = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        g = View((16, 16), flip=0, max_share=0.9).draw(label, rng)
        shares.append(largest_share(crop_label(label, g)))
    assert np.mean(np.array(shares) < 0.9) > 0.85
    plain = View((16, 16), flip=0)
    first = [plain.draw(label, np.random.default_rng(s)) for s in range(200)]
    assert np.mean([largest_share(crop_label(label, g)) < 0.9 for g in first]) < 0.4


@pytest.mark.parametrize("value", [0, IGNORE], ids=["one class", "void"])
def test_drawing_again_ends(value):
    label = np.full((40, 40), value, np.uint8)
    View((8, 8), max_share=0.5).draw(label, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("label", "share"),
    [
        ([[IGNORE, IGNORE]], 0),
        ([[3]], 1),
        ([[0, 0, 1, IGNORE]], 2 / 3),
        ([[253, 254, 254, 254]], 3 / 4),
    ],
)
def test_share_of_the_most_frequent_class(label, share):
    assert largest_share(np.array(label, np.uint8)) == pytest.approx(share)


def test_share_of_a_mirrored_view():
    label = ids(0, 5)
    expected = np.bincount(label[label != IGNORE]).max() / (label != IGNORE).sum()
    assert largest_share(label[:, ::-1]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 4)}, r"crop must be \(height, width\) in pixels, got \(0, 4\)"),
        ({"crop": (4,)}, r"crop must be .* got \(4,\)"),
        ({"crop": (4, 4), "resize": (4, -1)}, r"resize must be .* got \(4, -1\)"),
        ({"crop": (4, 4), "ratio": (0, 1)}, r"range of positive factors, got \(0, 1\)"),
        ({"crop": (4, 4), "ratio": (2, 1)}, r"range of positive factors, got \(2, 1\)"),
        ({"crop": (4, 4), "flip": 1.5}, r"probability in \[0, 1\], got 1.5"),
        ({"crop": (4, 4), "max_share": 0}, r"max_share must be in \(0, 1\], got 0"),
        ({"crop": (4, 4), "max_share": 75}, r"max_share must be in \(0, 1\], got 75"),
    ],
)
def test_impossible_views_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        View(**options)


def test_whole_images():
    assert Geometry.whole((3, 4)) == (3, 4, 3, 4, 0, 0, 3, 4, 0)
    assert Geometry.whole((3, 4), (6, 7)) == (3, 4, 6, 7, 0, 0, 6, 7, 0)


@pytest.mark.parametrize(
    ("rule", "full", "size"),
    [
        (None, (3, 4), (3, 4)),
        ([5.0, 6], (3, 4), (5, 6)),
        (1024, (720, 1280), (1024, 1820)),
        (1024, (2000, 1024), (2000, 1024)),
        (2, (1, 3), (2, 6)),
    ],
)
def test_sizes_by_rule(rule, full, size):
    assert size_by(rule, full) == size


@pytest.mark.parametrize("rule", [[3], [1, 2, 3], [0, 4], 0, -3, 0.5])
@pytest.mark.parametrize("name", ["eval_size", "eval_label_size"])
def test_odd_rules_are_refused(rule, name):
    with pytest.raises(ValueError, match=rf"{name} must be \[height, width\], the length"):
        EvalView(**{name.removeprefix("eval_"): rule})


def test_protocols_have_names():
    assert str(EvalView()) == "input at their own size, labels at their own size"
    assert str(EvalView((512, 1024), 1024)) == "input 1024x512, labels shorter side 1024"


@pytest.mark.parametrize("seed", range(5))
def test_a_label_resized_before_gives_the_same_crops(seed):
    rng = np.random.default_rng(seed)
    full, resize = tuple(rng.integers(5, 60, 2)), tuple(rng.integers(5, 60, 2))
    label = rng.integers(0, 19, full).astype(np.uint8)
    image = rng.integers(0, 256, (*full, 3)).astype(np.uint8)
    view = View((20, 20), resize=resize, max_share=0.3)
    small, small_image = resize_label(label, resize), resize_image(image, resize)
    for draw in range(20):
        first = view.draw(label, np.random.default_rng(draw))
        second = view.draw(small, np.random.default_rng(draw), full)
        assert first == second
        np.testing.assert_array_equal(crop_label(label, first), crop_label(small, first))
        np.testing.assert_array_equal(crop_image(image, first), crop_image(small_image, first))
