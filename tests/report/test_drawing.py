import numpy as np
import pytest

from sfseg.labels import CITYSCAPES, distinct_colour
from sfseg.report.drawing import (
    RIGHT,
    WRONG,
    colourise,
    error_map,
    legend,
    numbered,
    overlay,
    readable,
    sheet,
    write_names,
)
from sfseg.types import IGNORE

PALETTE = [(10, 20, 30), (200, 100, 50), (255, 255, 255)]


def random_label(shape=(13, 17), num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(num_classes, size=shape).astype(np.uint8)
    label[rng.random(shape) < 0.2] = IGNORE
    return label


@pytest.mark.parametrize("shape", [(13, 17), (1, 1), (0, 4)])
def test_colours_are_looked_up(shape):
    label = random_label(shape)
    expected = np.zeros((*shape, 3), np.uint8)
    for place in np.ndindex(*shape):
        if label[place] != IGNORE:
            expected[place] = PALETTE[label[place]]
    np.testing.assert_array_equal(colourise(label, PALETTE), expected)


def test_void_and_unknown_ids_are_black():
    label = np.array([[IGNORE, 3, 253]], np.uint8)
    assert not colourise(label, PALETTE).any()
    full = [distinct_colour(k) for k in range(254)]
    assert colourise(label, full)[0].any(axis=1).tolist() == [False, True, True]


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_overlay_mixes_and_leaves_void_alone(opacity):
    label = random_label()
    image = np.random.default_rng(1).integers(256, size=(*label.shape, 3)).astype(np.uint8)
    colours = colourise(label, PALETTE)
    mixed = image * (1 - opacity) + colours * opacity
    expected = np.where((label == IGNORE)[..., None], image, mixed)
    shown = overlay(image, label, PALETTE, opacity)
    assert shown.dtype == np.uint8
    np.testing.assert_allclose(shown, expected, atol=0.51)
    np.testing.assert_array_equal(shown[label == IGNORE], image[label == IGNORE])


def test_overlay_keeps_its_input():
    label, image = random_label(), np.full((13, 17, 3), 9, np.uint8)
    overlay(image, label, PALETTE)
    assert (image == 9).all()


def test_errors_are_red_and_void_is_black():
    label = np.array([[0, 1, IGNORE, IGNORE]], np.uint8)
    prediction = np.array([[0, 0, 1, IGNORE]], np.uint8)
    shown = [tuple(pixel) for pixel in error_map(prediction, label)[0].tolist()]
    assert shown == [RIGHT, WRONG, (0, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize(
    ("size", "tile"),
    [((32, 64), (160, 320)), ((500, 500), (500, 500)), ((1024, 2048), (320, 640))],
)
def test_a_sheet_has_a_place_for_every_tile(size, tile):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 2, 3)]
    # The last tile differs in size and is brought to that of the first.
    tiles = [np.full((*size, 3), c, np.uint8) for c in colours[:3]]
    tiles.append(np.full((7, 5, 3), colours[3], np.uint8))
    picture = sheet([("one", tiles[:2]), ("two", tiles[2:])], ["left", "right"])
    height, width = tile
    assert picture.shape == (3 * 22 + 2 * height, 2 * width, 3)
    for k, colour in enumerate(colours):
        top = 2 * 22 + (k // 2) * (height + 22)
        left = (k % 2) * width
        place = picture[top : top + height, left : left + width]
        assert (place == colour).all()


def test_a_sheet_invents_no_colours():
    tile = colourise(random_label((10, 20)), PALETTE)
    picture = sheet([("", [tile])], [""])[44:]
    drawn = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
    assert drawn <= {(0, 0, 0), *PALETTE}


@pytest.mark.parametrize(("width", "lines"), [(640, 5), (130, 19), (100, 19), (2600, 1)])
def test_the_legend_shows_every_class(width, lines):
    strip = legend(CITYSCAPES.classes, CITYSCAPES.palette, width)
    assert strip.shape == (lines * 22, width, 3)
    shown = {tuple(c) for c in strip.reshape(-1, 3).tolist()}
    assert shown >= set(CITYSCAPES.palette)


def test_a_legend_without_a_colour_for_each_name_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        legend(["road", "car"], [(1, 2, 3)], 640)


def test_long_names_stay_on_their_own_colour():
    names, palette = ["a very long name of a class " * 3, "b"], [(0, 0, 0), (0, 0, 255)]
    strip = legend(names, palette, 520)
    assert (strip[:, 256:260] == 0).all() and (strip[:, 260:264] == (0, 0, 255)).all()


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("road", "road"),
        ("é|ü", "e|u"),
        ("道路", "7: ??"),
        ("what?", "what?"),
        ("Straße", "7: Stra?e"),
    ],
)
def test_names_that_the_font_lacks_keep_their_class_id(name, drawn):
    assert readable(numbered(name, 7)) == drawn


def test_names_stand_on_their_classes():
    label = np.full((120, 200), IGNORE, np.uint8)
    label[:, :120], label[:, 120:196], label[0, 196] = 0, 1, 2
    image = np.full((120, 200, 3), 90, np.uint8)
    write_names(image, label, ["road", "car", "pole"])
    written = (image != 90).any(axis=2)
    for k in (0, 1):
        assert written[label == k].any()
    # The third has too few pixels, and void has no name.
    assert not written[:, 190:].any()
