import json

import numpy as np
import pytest
from make import Memory, cityscapes, ids, own_folder, picture, write

from sfseg.data.check import look_at
from sfseg.data.layouts import folder
from sfseg.data.report import Report
from sfseg.data.street_layouts import cityscapes as cityscapes_files
from sfseg.errors import DataError
from sfseg.types import IGNORE


def report(scenes, title="source train", seen=None, indices=None):
    indices = range(len(scenes)) if indices is None else indices
    looks = list(look_at(scenes, indices, with_labels=scenes.has_labels))
    return Report.of(scenes, title, looks, {} if seen is None else seen)


def memory(count=3, first=0, **changed):
    labels = [changed.get(f"label_{k}", ids(k, 3)) for k in range(count)]
    images = [changed.get(f"image_{k}", picture(first + k)) for k in range(count)]
    return Memory(images, labels)


def kinds(found):
    return [(f.kind, f.file) for f in found]


def test_good_scenes_have_no_findings():
    found = report(memory())
    assert found.findings == () and found.is_complete and found.scenes == 3
    assert found.official is None and found.has_labels and found.sizes == {(32, 64): 3}


def test_classes_are_counted_by_pixels_and_images():
    labels = {"label_0": np.zeros((32, 64), np.uint8), "label_1": ids(1, 2)}
    labels["label_0"][:, 32:] = IGNORE
    scenes = memory(2, **labels)
    found = report(scenes)
    expected = [[(label == k).sum() for k in range(3)] for label in scenes.stored]
    np.testing.assert_array_equal(found.counts, expected)
    assert found.counts.dtype == np.int64
    total = np.sum(expected, axis=0)
    np.testing.assert_allclose(found.shares, total / total.sum())
    assert found.images.tolist() == [2, 1, 0]


def test_sizes_are_counted_and_sorted():
    big = {"image_1": picture(9, (40, 64)), "label_1": ids(1, 3, (40, 64))}
    assert list(report(memory(**big)).sizes.items()) == [((32, 64), 2), ((40, 64), 1)]


def test_what_was_not_read_is_not_counted():
    found = report(memory(), indices=[0, 2])
    assert found.scenes == 3 and len(found.counts) == 2 and not found.is_complete


def test_the_same_picture_is_found_within_a_set_and_in_sets_before():
    seen = {}
    first = report(memory(image_2=picture(0)), seen=seen)
    assert kinds(first.suspicions) == [("same picture twice", "memory/2")]
    assert first.findings[0].message == "memory/2 is the same picture as memory/0"
    assert first.is_complete
    second = report(memory(first=1), "target eval", seen)
    assert [f.message for f in second.findings] == [
        "memory/0 is the same picture as source train: memory/1"
    ]


def test_one_changed_pixel_makes_another_picture():
    changed = picture(0)
    changed[3, 5, 1] ^= 1
    assert not report(memory(image_1=changed)).findings


def test_pictures_of_another_shape_are_others():
    blank = Memory([np.zeros((32, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)])
    assert not report(blank, "target train").findings


def test_a_source_without_labels_is_odd_a_target_is_not():
    scenes = Memory([picture(0)])
    assert kinds(report(scenes).suspicions) == [("no labels", "")]
    found = report(scenes, "target eval")
    assert not found.findings and not found.has_labels and not found.is_complete
    assert found.to_dict()["classes"] == {}


def test_a_sub_folder_of_images_without_one_of_masks_is_named(tmp_path):
    classes = own_folder(tmp_path, masks=False)
    bare = folder(tmp_path, "val", classes=classes)
    assert not report(bare, "target eval").suspicions
    for name in ("b", "a", "validation", "x"):
        (tmp_path / "masks" / name).mkdir(parents=True)
    said = "images/val has no partner masks/val; masks has a, b, validation, ..."
    val, train = (folder(tmp_path, split, classes=classes) for split in ("val", "train"))
    assert [s.message for s in report(val, "target eval").suspicions] == [said]
    (source,) = report(val, "source eval").suspicions
    assert source.message == f"no labels, but training on the source needs them; {said}"
    # What adapts needs none.
    assert "no labels" not in [s.kind for s in report(train, "target train").suspicions]


def test_an_empty_set_is_a_fault():
    found = report(memory(0))
    assert kinds(found.faults) == [("empty set", "")]
    json.dumps(found.to_dict())


def test_labels_that_are_all_void_are_a_fault_of_the_set():
    void = np.full((32, 64), IGNORE, np.uint8)
    found = report(memory(2, label_0=void, label_1=void))
    assert kinds(found.faults) == [("void set", "")]
    assert kinds(found.suspicions) == [("void only", "memory/0"), ("void only", "memory/1")]
    assert not report(memory(2, label_0=void)).faults


def test_missing_labels_are_named_whether_read_or_not(tmp_path):
    classes = own_folder(tmp_path, splits=["."], count=5)
    for k in (0, 3):
        (tmp_path / "masks" / f"{k}.png").unlink()
    found = report(folder(tmp_path, classes=classes), indices=[0, 4])
    assert kinds(found.findings) == [
        ("no label file", "masks/0.png"), ("no label file", "masks/3.png"),
    ]  # fmt: skip
    assert found.faults[1].message == "masks/3.png does not exist: images/3.png lacks it"
    assert len(found.sizes) == 1 and len(found.counts) == 1


def test_both_files_of_a_scene_are_looked_at(tmp_path):
    classes = own_folder(tmp_path, splits=["."], count=2)
    (tmp_path / "images" / "1.png").write_bytes(b"")
    write(tmp_path / "masks" / "1.png", np.full((32, 64), 9, np.uint8))
    found = report(folder(tmp_path, classes=classes))
    assert kinds(found.faults) == [
        ("empty file", "images/1.png"), ("ids out of range", "masks/1.png"),
    ]  # fmt: skip
    assert [f.pixels for f in found.faults] == [None, 2048]


def test_a_published_number_is_compared(tmp_path):
    files = cityscapes_files(cityscapes(tmp_path), "train")
    found = report(files)
    assert kinds(found.suspicions) == [("fewer images than published", "")]
    assert found.official == 2975 and "3 of 2975 images" in found.suspicions[0].message
    files.official = 3
    assert not report(files).findings


def test_a_set_that_cannot_be_opened_has_one_fault(tmp_path):
    with pytest.raises(DataError) as error:
        cityscapes_files(tmp_path / "gone", "train")
    found = Report.unopened(error.value)
    assert kinds(found.faults) == [("set cannot be opened", "")]
    assert found.to_dict()["faults"][0]["message"] == str(error.value)
    assert found.to_dict()["scenes"] == 0 and not found.suspicions


def test_the_dictionary_is_plain():
    values = report(memory(image_2=picture(0))).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["sizes"] == {"64x32": 3} and values["read"] == 3
    assert values["suspicions"][0] == {
        "kind": "same picture twice",
        "file": "memory/2",
        "message": "memory/2 is the same picture as memory/0",
        "pixels": None,
        "is_fault": False,
    }
    assert list(values["classes"]) == ["class 0", "class 1", "class 2"]
    assert sum(c["share"] for c in values["classes"].values()) == pytest.approx(1)
