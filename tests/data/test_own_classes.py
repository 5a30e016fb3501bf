"""Masks read as a user's classes.yaml says, and what is said of those that do not fit."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from make import ids, own_folder, picture, write
from PIL import Image

from sfseg.data import layouts
from sfseg.data.check import check_scenes, look
from sfseg.data.decoding import Palette
from sfseg.data.files import pairing_hint
from sfseg.data.fingerprint import fingerprint
from sfseg.data.label_ids import id_table
from sfseg.data.mask_advice import likely_cause
from sfseg.errors import DataError
from sfseg.labels import CITYSCAPES
from sfseg.types import IGNORE

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
RGB = [list(RED), list(GREEN), list(BLUE)]
OTHER = ["colours of other classes"]


def mask(tmp_path: Path, stored: object, suffix: str = ".png", **settings: object):
    """A set of one scene with this mask, and ``classes.yaml`` of a, b and c."""
    pixels = np.array(stored, np.uint16 if np.max(stored) > 255 else np.uint8)
    write(tmp_path / "images" / "0.png", picture(0, pixels.shape[:2]))
    path = tmp_path / "masks" / f"0{suffix}"
    path.parent.mkdir(exist_ok=True)
    if pixels.dtype == np.uint16:
        assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[..., ::-1])
    else:
        Image.fromarray(pixels).save(path)
    return opened(tmp_path, **settings)


def opened(root: Path, **settings: object):
    classes = root / "classes.yaml"
    classes.write_text(yaml.safe_dump({"classes": ["a", "b", "c"], **settings}))
    return layouts.folder(root, classes=classes)


@pytest.mark.parametrize(
    ("settings", "stored", "expected"),
    [
        ({"values": [0, 1000, 65535]}, [0, 1000, 65535, 255], [0, 1, 2, IGNORE]),
        ({"ignore": [65535]}, [0, 1, 2, 65535], [0, 1, 2, IGNORE]),
        ({"values": [[0, 7], 1, [2, 3, 300]]}, [7, 0, 3, 300], [0, 0, 2, 2]),
        ({"values": [0, 1, 255]}, [0, 255, 1, 1], [0, 2, 1, 1]),
    ],
    ids=["wide", "void of 16 bits", "several of a class", "255 is a class"],
)
def test_ids(tmp_path, settings, stored, expected):
    assert mask(tmp_path, [stored], **settings).label(0).tolist() == [expected]


def test_ids_of_8_bits_are_read_by_a_wide_table_too(tmp_path):
    files = mask(tmp_path, [[0, 1, 2, 9]], values=[0, 1, [2, 9]], ignore=[65535])
    assert files.label(0).tolist() == [[0, 1, 2, 2]]


@pytest.mark.parametrize(
    ("settings", "stored", "expected"),
    [
        ({"palette": [[list(RED), list(BLUE)], list(GREEN), [9, 9, 9]]},
         [RED, BLUE, GREEN, BLACK], [0, 0, 1, IGNORE]),
        ({"palette": RGB, "ignore": [[255, 255, 255], 7]},
         [RED, GREEN, (255, 255, 255), BLACK], [0, 1, IGNORE, IGNORE]),
        ({"palette": RGB, "nearest": 20},
         [(245, 9, 9), (235, 0, 0), (234, 0, 0), (9, 9, 0)], [0, 0, IGNORE, IGNORE]),
        ({"palette": RGB, "nearest": True}, [(210, 0, 0), (0, 207, 0), (0, 0, 206), RED],
         [0, 1, IGNORE, 0]),
        ({"channel": "red"}, [(0, 3, 200), (1, 0, 0), (2, 2, 2), (255, 0, 0)], [0, 1, 2, IGNORE]),
        ({"channel": "blue"}, [(9, 9, 0), (9, 9, 1), (9, 9, 2), (9, 9, 255)], [0, 1, 2, IGNORE]),
    ],
    ids=["several of a class", "ignored", "nearest to 20", "nearest", "red", "blue"],
)  # fmt: skip
def test_colours(tmp_path, settings, stored, expected):
    assert mask(tmp_path, [stored], **settings).label(0).tolist() == [expected]


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_colour_is_the_nearest(seed):
    rng = np.random.default_rng(seed)
    colours = [tuple(int(v) for v in c) for c in rng.integers(1, 256, size=(6, 3))]
    rgb = rng.integers(256, size=(5, 7, 3)).astype(np.uint8)
    found, known = Palette({c: k for k, c in enumerate(colours)}, nearest=90).ids(rgb)
    distance = np.linalg.norm(rgb[..., None, :] - np.array([*colours, BLACK], float), axis=3)
    expected = np.where(distance.min(axis=2) > 90, 6, distance.argmin(axis=2))
    np.testing.assert_array_equal(found, np.where(expected == 6, IGNORE, expected))
    assert known.all()


@pytest.mark.parametrize(
    ("settings", "greys", "expected"),
    [
        ({}, [0, 1, 2, 255], [0, 1, 2, IGNORE]),
        ({"palette": RGB}, [0, 1, 2, 255], [0, 1, 2, IGNORE]),
        ({"palette": RGB}, [0, 0, 0, 0], [IGNORE] * 4),
        ({"palette": [[1, 1, 1], [2, 2, 2], [0, 0, 0]]}, [0, 1, 2, 2], [2, 0, 1, 1]),
        ({"palette": [[9, 9, 9], [200, 200, 200], [5, 0, 0]]}, [9, 200, 0, 0],
         [0, 1, IGNORE, IGNORE]),
    ],
    ids=["no palette", "a palette of other colours", "void", "greys", "greys and void"],
)  # fmt: skip
def test_three_equal_channels(tmp_path, settings, greys, expected):
    files = mask(tmp_path, [[[v] * 3 for v in greys]], **settings)
    assert files.label(0).tolist() == [expected]


@pytest.mark.parametrize(
    ("stored", "settings", "words"),
    [
        ([BLACK, (128, 0, 0), (0, 128, 0), RED], {}, r"of 4 colours, but .*yaml has no 'p"),
        ([BLACK, (128, 0, 0)], {}, r"VOC's, .*`palette: \[\[0, 0, 0\], \[128, 0, 0\], \[0, 128,"),
        ([(128, 0, 0), (224, 224, 192)], {}, r"and `ignore: \[\[224, 224, 192\]\]`"),
        ([RED, RED, GREEN], {}, r"\(255, 0, 0\) 66\.7 %, \(0, 255, 0\) 33\.3 %; "
         r".*b\], \.\.\.\]`.*\['a', 'b', 'c'\] in this order; .*'ignore'$"),
        ([(0, 0, 0), (1, 0, 0), (2, 0, 0)], {}, r"red holds 3 numbers .*0 every.*`channel: r"),
        ([(0, 0, 0), (7, 0, 0), (24, 0, 0)], {}, r"red holds 3 numbers up to 24, .*`channel: r"),
        ([(0, 0, 0), (1, 3, 0), (2, 6, 0)], {}, r"red holds 3 numbers that are ids .*`channel: r"),
        ([(128, 64, 128), (0, 0, 142)], {}, r"`palette: \[\[r, g, b\], \.\.\.\]`"),
        ([(90, 90, 9), (90, 0, 99)], {"palette": RGB}, r"2 pixels of 2 colours .*add them to"),
        ([BLACK, (9, 9, 9)], {"palette": [[0, 0, 0], *RGB[1:]]}, r"1 colours .*`nearest: true` in"),
        ([RED, (250, 9, 2), (9, 240, 0)], {"palette": RGB}, r"2 colours .*`nearest: true` in"),
        ([RED, (128, 127, 0), (64, 0, 191)], {"palette": RGB}, r"2 colours .*`nearest: true` in"),
        ([(90, 90, 9), (90, 0, 99), (250, 0, 0)], {"palette": RGB}, r"3 colours .*add them to"),
        ([RED, (1, 2, 3)], {"palette": RGB}, r"1 pixels of 1 colours .*\(1, 2, 3\) 100\.0 %"),
        ([(k, 90, 7) for k in range(99)], {"palette": RGB}, r"99 pixels of 99 .*`nearest: true`"),
        ([(k, 90, 7) for k in range(99)], {}, r"of 99 colours.*, \.\.\.;.*nearest: true.*palette"),
        ([(k % 3, k, 99 - k) for k in range(99)], {}, r"`channel: red`"),
    ],
)  # fmt: skip
def test_colours_that_nothing_names_are_refused(tmp_path, stored, settings, words):
    with pytest.raises(DataError, match=words) as error:
        mask(tmp_path, [stored], **settings).label(0)
    assert str(error.value).count("%") <= 8


def test_a_palette_that_is_built_in_is_proposed_by_the_names(tmp_path):
    road, car = (CITYSCAPES.palette[CITYSCAPES.classes.index(name)] for name in ("road", "car"))
    files = mask(tmp_path, [[car, BLACK]], classes=["car", "road"])
    with pytest.raises(DataError) as error:
        files.label(0)
    assert f"those of cityscapes: `palette: {[list(car), list(road)]}`" in str(error.value)
    assert mask(tmp_path, [[car, road]], classes="cityscapes").label(0).tolist() == [[13, 0]]


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ([0, 1, 65535], r"1 pixels .*: 65535; .*`ignore: \[65535\]`"),
        ([0, 60, 120, 255], r"steps of 60 are.*`values: \[0, 60, 120\]`"),
        ([0, 65535], r"`ignore: \[65535\]`"),
        ([0, 127, 255], r"steps of 127 are.*`values: \[0, 127, 255\]`"),
        (
            [0, 1, 2, 3, 255],
            r"if ids begin with 1, write `values: \[1, 2, 3\]` and `ignore: \[0\]`",
        ),
        ([1, 3], r"if ids begin with 1, write `values: \[1, 2, 3\]` into"),
        ([0, 1, 2, 5], "map them with 'values' or 'ignore'"),
        (list(range(80)), "or of a mask that was resized with interpolation or saved as JPEG"),
    ],
)
def test_ids_that_nothing_names_are_refused_with_the_usual_cause(tmp_path, stored, words):
    with pytest.raises(DataError, match=words):
        mask(tmp_path, [stored]).label(0)


def test_two_ids_of_16_bits_are_two_classes(tmp_path):
    with pytest.raises(DataError, match=r"`values: \[0, 65535\]`"):
        mask(tmp_path, [[0, 65535]], classes=["a", "b"]).label(0)
    mended = mask(tmp_path, [[0, 65535]], classes=["a", "b"], values=[0, 65535])
    assert mended.label(0).tolist() == [[0, 1]]


def test_few_ids_between_those_of_classes_were_mixed(tmp_path):
    stored = [0, 6, 17, 89, 94, 100, 200]
    with pytest.raises(DataError, match="resized with interpolation or saved as JPEG"):
        mask(tmp_path, [stored], values=[0, 100, 200]).label(0)


def test_of_255_alone_nothing_is_usual():
    assert likely_cause([IGNORE], id_table({0: 0, 1: 1}, ignored=()), CITYSCAPES) == ""


def test_ids_below_0_cannot_be_named(tmp_path):
    files = mask(tmp_path, [[0, 1]], ".tif")
    Image.fromarray(np.array([[-1, 1]], np.int32)).save(files.masks[0])
    with pytest.raises(DataError, match=r": -1; ids below 0 .* cannot be named: .* void as 255"):
        files.label(0)


def test_lossy_masks_are_odd_and_named_where_they_fail(tmp_path):
    blocks = np.array([[0, 1]]).repeat(8, axis=0).repeat(8, axis=1)
    files = mask(tmp_path, blocks, ".jpg")
    assert [f.kind for f in look(files, 0, with_labels=True).findings] == ["lossy label file"]
    with pytest.raises(DataError, match=r"no class of .* it is a JPEG file, which changes pixels"):
        mask(tmp_path, 9 * blocks, ".jpg").label(0)


@pytest.mark.parametrize(("suffix", "options", "kinds"), [
    (".webp", {"lossless": True}, []), (".webp", {"quality": 90}, ["lossy label file"]),
    (".tif", {}, []), (".tif", {"compression": "jpeg"}, ["lossy label file"]), (".bmp", {}, []),
])  # fmt: skip
def test_formats_that_keep_pixels_are_not_odd(tmp_path, suffix, options, kinds):
    (tmp_path / "masks").mkdir()
    write(tmp_path / "images" / "0.png", picture(0, (16, 16)))
    pixels = np.full((16, 16, 3), 1, np.uint8)
    pixels[8:, :, :] = 2
    Image.fromarray(pixels).save(tmp_path / "masks" / f"0{suffix}", **options)
    found = look(opened(tmp_path), 0, with_labels=True).findings
    assert [f.kind for f in found if f.kind != "ids in three channels"] == kinds


@pytest.mark.parametrize(("ids", "kinds"), [([0, 1, 2], []), ([0, 2, 1], OTHER)])
def test_a_palette_file_whose_colours_are_of_other_classes_is_odd(tmp_path, ids, kinds):
    """As programs make them that number colours in the order they find them."""
    files = mask(tmp_path, [[0, 1, 2]], palette=RGB)
    image = Image.fromarray(np.array([ids], np.uint8), "L").convert("P")
    image.frombytes(bytes(ids))
    image.putpalette([value for k in ids for value in RGB[k]])
    image.save(files.masks[0])
    assert files.label(0).tolist() == [ids]
    found = look(files, 0, with_labels=True).findings
    assert [finding.kind for finding in found] == kinds
    assert not kinds or "id 1, read as b, has the colour of c; if its colours" in found[0].message


def test_three_equal_channels_are_said_once(tmp_path, caplog):
    for k in range(4):
        write(tmp_path / "images" / f"{k}.png", picture(k))
        write(tmp_path / "masks" / f"{k}.png", np.dstack([ids(k, 3)] * 3))
    check_scenes(opened(tmp_path), "source train", with_labels=True, samples=None)
    assert caplog.text.count("three equal channels") == 1 and "4 of 4 scenes" in caplog.text


MAPPED = {
    "classes": ["road", "car", "rider", "person", "terrain"],
    "map": {"rider": "person", "terrain": None},
}


def test_a_map_merges_and_drops_classes_by_name(tmp_path):
    files = mask(tmp_path, [[0, 1, 2, 3, 4]], **MAPPED)
    assert files.labels.classes == ("road", "car", "person")
    assert files.label(0).tolist() == [[0, 1, 2, 2, IGNORE]]
    files = mask(tmp_path, [[RED, (2, 2, 9), (3, 3, 9), (4, 4, 9), GREEN]], **MAPPED,
                 palette=[list(RED), [2, 2, 9], [3, 3, 9], [4, 4, 9], list(GREEN)])  # fmt: skip
    assert files.label(0).tolist() == [[0, 1, 2, 2, IGNORE]]
    assert files.labels.palette == (RED, (2, 2, 9), (4, 4, 9))


def test_a_map_may_give_new_names(tmp_path):
    files = mask(tmp_path, [[0, 1, 2]], map={"a": "x", "c": "x"})
    assert files.labels.classes == ("x", "b") and files.label(0).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("form", ["names", "built-in"])
def test_a_source_of_other_classes_serves_the_task(tmp_path, caplog, form):
    root = tmp_path / "source"
    stored = np.arange(19, dtype=np.uint8)[None]
    write(root / "images" / "0.png", picture(0, stored.shape))
    write(root / "masks" / "0.png", stored)
    task = tmp_path / "classes.yaml"
    task.write_text("classes: [person, car, road]\n")
    mapped = {"rider": "person", "truck": "car"}
    mapped |= {n: None for n in CITYSCAPES.classes if n not in {*mapped, "person", "car", "road"}}
    names = list(CITYSCAPES.classes) if form == "names" else "cityscapes"
    source = tmp_path / "source.yaml"
    source.write_text(yaml.safe_dump({"classes": names, "map": mapped}))
    files = layouts.folder(root, classes=source, task=task)
    expected = np.full(19, IGNORE)
    expected[[11, 12, 13, 14, 0]] = 0, 0, 1, 1, 2
    assert files.labels.classes == ("person", "car", "road")
    assert files.label(0).tolist() == [expected.tolist()]
    assert not caplog.text
    plain = layouts.folder(root, classes="cityscapes", task=task)
    assert plain.label(0)[0, [11, 12]].tolist() == [0, IGNORE]
    assert "wall" in caplog.text and "rider" in caplog.text and "read as void" in caplog.text


def test_a_source_without_a_class_of_the_task_is_refused(tmp_path):
    own_folder(tmp_path)
    with pytest.raises(ValueError, match="none of the classes of cityscapes is one of the task's"):
        layouts.folder(tmp_path, "train", classes="cityscapes", task=tmp_path / "classes.yaml")


@pytest.mark.parametrize(
    "settings",
    [
        {"nearest": True}, {"nearest": 20}, {"channel": "red"}, {"map": {"a": "b"}},
        {"map": {"a": None}}, {"ignore": [[1, 2, 3]]}, {"ignore": [7]}, {"values": [0, 1, [2, 3]]},
        {"palette": [[RGB[0], [1, 2, 3]], *RGB[1:]]}, {"palette": None},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_changes_how_masks_are_read_is_another_content(tmp_path, settings):
    own_folder(tmp_path)
    before = opened(tmp_path, palette=RGB)
    after = opened(tmp_path, **{"palette": RGB, **settings})
    assert fingerprint(before) != fingerprint(after)
    assert before.meaning != after.meaning or before.labels.classes != after.labels.classes
    assert fingerprint(opened(tmp_path, palette=RGB)) == fingerprint(before)


@pytest.mark.parametrize(
    ("suffixes", "words"),
    [
        (("", "_mask"), r"masks/train has 0_mask\.png: data\.mask_suffix=_mask$"),
        (("_rgb", ""), r"masks/train has 0\.png: data\.image_suffix=_rgb$"),
        (("_rgb", "-L"), r"has 0-L\.png: data\.image_suffix=_rgb data\.mask_suffix=-L$"),
    ],
)
def test_masks_of_other_names_are_found_by_a_setting(tmp_path, suffixes, words):
    classes = own_folder(tmp_path, splits=["train"])
    for part, ending in zip(("images", "masks"), suffixes, strict=True):
        for path in (tmp_path / part / "train").iterdir():
            path.rename(path.with_stem(path.stem + ending))
    files = layouts.folder(tmp_path, "train", classes=classes)
    with pytest.raises(DataError, match=words.replace("$", "\n")):
        check_scenes(files, "source train", with_labels=True, samples=None)
    settings = {"image_suffix": suffixes[0], "mask_suffix": suffixes[1]}
    files = layouts.folder(tmp_path, "train", classes=classes, **settings)
    check_scenes(files, "source train", with_labels=True, samples=None)
    np.testing.assert_array_equal(files.label(1), ids(1, 3))


def test_masks_of_no_rule_are_named_and_a_lone_one_is_not_guessed(tmp_path):
    classes = own_folder(tmp_path, splits=["train"])
    masks = tmp_path / "masks" / "train"
    (masks / "1.png").unlink()
    assert pairing_hint(layouts.folder(tmp_path, "train", classes=classes)) == ""
    for k, path in enumerate(sorted(masks.iterdir())):
        path.rename(masks / f"label{k}.png")
    hint = pairing_hint(layouts.folder(tmp_path, "train", classes=classes))
    assert hint == f"masks{os.sep}train has label0.png, label1.png".replace(os.sep, "/")
