import os

import numpy as np
import pytest
from make import Memory, gta5, ids, own_folder, picture, write

from sfseg.data import statistics
from sfseg.data.layouts import folder
from sfseg.data.statistics import class_counts, counts_file
from sfseg.data.street_layouts import gta5 as gta5_files
from sfseg.errors import DataError


@pytest.fixture
def tree(tmp_path):
    return own_folder(tmp_path / "mine", splits=["."], count=4)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def opened(classes):
    return folder(classes.parent, classes=classes)


def counted(scenes):
    """The counts of all labels, by a loop over classes."""
    labels = [scenes.label(k) for k in range(len(scenes))]
    return [[(label == k).sum() for k in range(scenes.labels.num_classes)] for label in labels]


def forbid_reading(monkeypatch):
    def fail(*arguments):
        raise AssertionError("a label was read")

    monkeypatch.setattr("sfseg.data.files.Files.label", fail)


def test_counts_equal_those_of_the_labels_and_are_kept(tree, cache, monkeypatch):
    scenes = opened(tree)
    expected = counted(scenes)
    counts = class_counts(scenes, cache)
    assert counts.dtype == np.int64 and counts.shape == (4, 3)
    np.testing.assert_array_equal(counts, expected)
    forbid_reading(monkeypatch)
    np.testing.assert_array_equal(class_counts(opened(tree), str(cache)), expected)
    assert [path.suffix for path in (cache / "statistics").iterdir()] == [".npz"]


def test_labels_of_another_size_are_counted_as_they_are_read(tmp_path, cache):
    scenes = gta5_files(gta5(tmp_path / "gta5"))
    counts = class_counts(scenes, cache)
    np.testing.assert_array_equal(counts, counted(scenes))
    assert counts.sum(axis=1).max() <= 32 * 64


def test_the_home_folder_is_found(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    class_counts(opened(tree), "~/kept")
    assert list((tmp_path / "kept" / "statistics").glob("*.npz"))


def touch(classes):
    path = classes.parent / "masks" / "1.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def touch_image(classes):
    path = classes.parent / "images" / "1.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def rename(classes):
    for kind in ("images", "masks"):
        (classes.parent / kind / "1.png").rename(classes.parent / kind / "7.png")


def remove(classes):
    (classes.parent / "images" / "1.png").unlink()


def other_names(classes):
    classes.write_text("classes: [a, b, c]")


def other_ids(classes):
    classes.write_text(classes.read_text() + "values: [0, 2, 1]\n")


@pytest.mark.parametrize("change", [touch, touch_image, rename, remove, other_names, other_ids])
def test_any_change_leads_to_another_file(tree, cache, change):
    before = counts_file(opened(tree), cache)
    assert counts_file(opened(tree), cache) == before
    change(tree)
    assert counts_file(opened(tree), cache) != before


def test_images_that_are_left_out_have_no_pixels_and_another_file(tree, cache):
    write(tree.parent / "masks" / "2.png", np.full((32, 64), 77, np.uint8))
    scenes = opened(tree)
    counts = class_counts(scenes, cache, {2})
    assert not counts[2].any() and counts[[0, 1, 3]].all()
    np.testing.assert_array_equal(class_counts(opened(tree), cache, [2]), counts)
    assert counts_file(scenes, cache, [2]) != counts_file(scenes, cache)
    assert len(list((cache / "statistics").iterdir())) == 1


def test_without_a_folder_nothing_is_kept(tree):
    scenes = opened(tree)
    np.testing.assert_array_equal(class_counts(scenes, None), counted(scenes))


def test_a_moved_tree_keeps_its_counts(tree, cache):
    before = counts_file(opened(tree), cache)
    moved = tree.parent.rename(tree.parents[1] / "moved") / tree.name
    assert counts_file(opened(moved), cache) == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no archive", b"\x93NUMPY"])
def test_a_damaged_file_is_counted_anew(tree, cache, content):
    scenes = opened(tree)
    path = counts_file(scenes, cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    np.testing.assert_array_equal(class_counts(scenes, cache), counted(scenes))
    with np.load(path, allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["counts"], counted(scenes))


@pytest.mark.parametrize("stored", [np.zeros((3, 3), np.int64), np.zeros((4, 3), np.float64)])
def test_counts_of_another_form_are_not_taken(tree, cache, stored):
    scenes = opened(tree)
    path = counts_file(scenes, cache)
    path.parent.mkdir(parents=True)
    np.savez(path, counts=stored)
    np.testing.assert_array_equal(class_counts(scenes, cache), counted(scenes))


def test_pickles_are_not_opened(tree, cache):
    scenes = opened(tree)
    path = counts_file(scenes, cache)
    path.parent.mkdir(parents=True)
    np.savez(path, counts=np.array([print], dtype=object))
    np.testing.assert_array_equal(class_counts(scenes, cache), counted(scenes))


def test_a_folder_that_takes_nothing_costs_a_warning(tree, cache, caplog):
    cache.write_text("in the way")
    scenes = opened(tree)
    np.testing.assert_array_equal(class_counts(scenes, cache), counted(scenes))
    assert "class counts cannot be kept" in caplog.text


def test_an_interrupted_write_leaves_nothing(tree, cache, monkeypatch, caplog):
    def fail(*arguments, **settings):
        raise OSError("disk full")

    monkeypatch.setattr(statistics.np, "savez_compressed", fail)
    class_counts(opened(tree), cache)
    assert list((cache / "statistics").iterdir()) == [] and "disk full" in caplog.text


def test_sets_without_files_are_counted_each_time(cache):
    scenes = Memory([picture(k) for k in range(2)], [ids(k, 3) for k in range(2)])
    np.testing.assert_array_equal(class_counts(scenes, cache), counted(scenes))
    assert not cache.exists() and counts_file(scenes, cache) is None


def test_an_empty_set_has_no_rows(cache):
    assert class_counts(Memory([], []), cache).shape == (0, 3)


def test_a_set_without_labels_is_refused(cache):
    with pytest.raises(ValueError, match="class_counts needs a set with labels"):
        class_counts(Memory([picture(0)]), cache)


def test_a_broken_label_is_named_and_nothing_is_kept(tree, cache):
    write(tree.parent / "masks" / "2.png", np.full((32, 64), 77, np.uint8))
    with pytest.raises(DataError, match=r"masks/2\.png has 2048 pixels"):
        class_counts(opened(tree), cache)
    assert not cache.exists()
