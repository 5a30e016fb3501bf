"""A folder of translated source images: found by name, with the labels of the originals."""

import shutil

import numpy as np
import pytest
from make import Memory, cityscapes, gta5, ids, own_folder, picture, synthia, write

from sfseg.data.cache import CacheSettings
from sfseg.data.fingerprint import fingerprint
from sfseg.data.geometry import View
from sfseg.data.layouts import folder
from sfseg.data.opening import opened
from sfseg.data.street_layouts import cityscapes as cityscapes_files
from sfseg.data.street_layouts import gta5 as gta5_files
from sfseg.data.street_layouts import synthia as synthia_files
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.data.translation import translated
from sfseg.errors import ConfigError, DataError


@pytest.fixture
def tree(tmp_path):
    return own_folder(tmp_path / "mine", splits=["train"], count=4).parent


def files(tree):
    return folder(tree, "train", classes=tree / "classes.yaml")


def translate(scenes, place, name=lambda name: name):
    """Write another picture for every image."""
    for k in range(len(scenes)):
        write(place / name(scenes.name(k)), picture(100 + k, scenes.size(k)))
    return place


def flat(name):
    return name.rpartition("/")[2]


@pytest.mark.parametrize(
    "name",
    [lambda name: name, flat, lambda name: name.removeprefix("images/"),
     lambda name: flat(name).replace(".png", ".bmp")],
    ids=["all folders", "no folder", "some folders", "another suffix"],
)  # fmt: skip
def test_images_are_the_translated_and_labels_the_originals(tree, tmp_path, name):
    scenes = files(tree)
    found = translated(scenes, translate(scenes, tmp_path / "translated", name))
    assert len(found) == 4 and found.has_labels
    for k in range(4):
        assert found.name(k) == scenes.name(k)
        np.testing.assert_array_equal(found.image(k), picture(100 + k))
        np.testing.assert_array_equal(found.label(k), ids(k, 3))
        assert found.size(k) == scenes.size(k)


@pytest.mark.parametrize(
    ("make", "read", "name"),
    [
        (gta5, gta5_files, flat),
        (synthia, lambda root: synthia_files(root, "all"), flat),
        (cityscapes, lambda root: cityscapes_files(root, "train"), flat),
        (cityscapes, lambda root: cityscapes_files(root, "train"), lambda name: name),
    ],
)
def test_every_layout_may_be_translated(tmp_path, make, read, name):
    scenes = read(make(tmp_path / "data"))
    found = translated(scenes, translate(scenes, tmp_path / "translated", name))
    for k in range(len(scenes)):
        np.testing.assert_array_equal(found.image(k), picture(100 + k))
        np.testing.assert_array_equal(found.label(k), scenes.label(k))


def test_only_training_images_of_the_source_are_translated(tree, tmp_path):
    place = translate(files(tree), tmp_path / "translated")

    def image(name):
        return opened(name, lambda: files(tree), None, str(place)).image(0)

    np.testing.assert_array_equal(image("source_train"), picture(100))
    for name in ("source_eval", "target_train", "target_eval"):
        np.testing.assert_array_equal(image(name), picture(0))


def test_values_of_the_originals_are_not_those_of_the_translated(tree, tmp_path):
    scenes = folder(tree, "train", classes=tree / "classes.yaml", value_range=[0, 10])
    found = translated(scenes, translate(scenes, tmp_path / "translated"))
    np.testing.assert_array_equal(found.image(0), picture(100))


def test_other_translations_are_other_content(tree, tmp_path):
    scenes = files(tree)
    place = translate(scenes, tmp_path / "translated")
    before = fingerprint(translated(scenes, place))
    assert fingerprint(scenes) != before == fingerprint(translated(scenes, place))
    write(place / scenes.name(1), picture(7))
    assert fingerprint(translated(scenes, place)) != before


def test_a_cache_keeps_the_translated(tree, tmp_path):
    scenes = files(tree)
    found = translated(scenes, translate(scenes, tmp_path / "translated"))
    settings = CacheSettings("memmap", str(tmp_path / "cache"))
    for _ in range(2):
        read = settings.open(found, View((8, 8)), with_labels=True)
        np.testing.assert_array_equal(read(2).image, picture(102))
        np.testing.assert_array_equal(read(2).label, ids(2, 3))
    original = settings.open(scenes, View((8, 8)), with_labels=True)
    np.testing.assert_array_equal(original(2).image, picture(2))


def test_missing_images_are_counted_and_named(tree, tmp_path):
    place = translate(files(tree), tmp_path / "translated")
    for k in (1, 3):
        (place / "images" / "train" / f"{k}.png").unlink()
    message = r"translated lacks 2 of 4 images of the source: images/train/1\.png, images/train/3"
    with pytest.raises(DataError, match=message):
        translated(files(tree), place)


def test_other_sizes_are_refused(tree, tmp_path):
    place = translate(files(tree), tmp_path / "translated")
    write(place / "images" / "train" / "2.png", picture(0, (16, 64)))
    with pytest.raises(
        DataError,
        match=r"1 of 4 images looked at.*2\.png has 64x16 pixels.*images/train/2\.png 64x32",
    ):
        translated(files(tree), place)


def test_names_that_could_mean_two_are_refused(tree, tmp_path):
    place = translate(files(tree), tmp_path / "translated", flat)
    write(place / "1.bmp", picture(0))
    with pytest.raises(DataError, match=r"holds both 1\.bmp and 1\.png; remove one"):
        translated(files(tree), place)
    (place / "1.bmp").unlink()
    write(tree / "images" / "train" / "again" / "1.png", picture(0))
    with pytest.raises(DataError, match=r"1\.png would stand for images/train/1\.png and for"):
        translated(files(tree), place)


def test_a_folder_that_is_not_there_is_named(tree, tmp_path):
    with pytest.raises(DataError, match=r"data\.translated=.*gone is no folder; point it at"):
        translated(files(tree), tmp_path / "gone")


def test_links_out_of_the_folder_are_refused(tree, tmp_path):
    place = translate(files(tree), tmp_path / "translated")
    path = place / "images" / "train" / "0.png"
    shutil.move(path, tmp_path / "0.png")
    path.symlink_to(tmp_path / "0.png")
    with pytest.raises(DataError, match="leads out of"):
        translated(files(tree), place)


@pytest.mark.parametrize(
    "scenes", [Toyscapes("game", "train", length=1), Memory([picture(0)])], ids=["drawn", "own"]
)
def test_what_is_not_in_files_is_refused_with_the_way_out(scenes, tmp_path):
    with pytest.raises(ConfigError, match=r"needs a source in files.*data/translation=fda"):
        translated(scenes, tmp_path)
