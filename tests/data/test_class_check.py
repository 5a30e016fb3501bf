"""What is said of classes that no label holds, and of labels that are mostly void."""

import logging

import numpy as np
import pytest
import yaml
from make import Memory, ids, own_folder, picture, write

from sfseg.data import class_check
from sfseg.data.check import check_scenes, look_at
from sfseg.data.layouts import folder
from sfseg.data.report import Report
from sfseg.types import IGNORE


def tree(root, labels, **settings):
    for k, label in enumerate(labels):
        write(root / "images" / f"{k}.png", picture(k, label.shape))
        write(root / "masks" / f"{k}.png", label)
    classes = root / "classes.yaml"
    classes.write_text(yaml.safe_dump({"classes": ["a", "b"], **settings}))
    return folder(root, classes=classes)


def half(value, size=(8, 8)):
    label = np.zeros(size, np.uint8)
    label[:, : size[1] // 2] = value
    return label


def check(scenes, what="source train", samples=None):
    check_scenes(scenes, what, with_labels=True, samples=samples)


def suspicions(scenes):
    looks = list(look_at(scenes, range(len(scenes)), with_labels=True))
    return {f.kind: f.message for f in Report.of(scenes, "target eval", looks, {}).suspicions}


def test_masks_of_0_and_255_get_the_line_that_mends_them(tmp_path, caplog):
    files = tree(tmp_path, [half(255), half(255)])
    check(files)
    assert "source train: b occurs in none of the 2 labels read: the masks hold 0 and 255" in (
        caplog.text
    )
    assert f"write `values: [0, 255]` into {tmp_path}/classes.yaml" in caplog.text
    assert "`values: [0, 255]`" in suspicions(files)["class in no label"]
    caplog.clear()
    mended = tree(tmp_path, [half(255), half(255)], values=[0, 255])
    check(mended)
    assert not caplog.text and not suspicions(mended)


def test_a_class_that_may_be_taken_for_void_is_told(tmp_path, caplog):
    check(tree(tmp_path, [half(255)], classes=["a", "b", "c"]))
    assert "255 (50.0%), of which 255 is void unless 'values' names it; check" in caplog.text


def test_a_class_that_is_not_labelled_is_named_with_the_ids_that_are(tmp_path, caplog):
    files = tree(tmp_path, [half(7)], classes=["a", "b", "c"], values=[0, 7, 8])
    check(files)
    assert (
        "c occurs in none of the 1 labels read: the masks hold the ids 0 (50.0%), 7 (50.0%);"
        in (caplog.text)
    )


def test_an_evaluation_may_lack_a_class_in_silence_but_not_in_check(tmp_path, caplog):
    files = tree(tmp_path, [half(0)], classes=["a", "b", "c"])
    check(files, "target eval")
    assert "occur" not in caplog.text
    assert "b, c occur in none" in suspicions(files)["class in no label"]


@pytest.mark.parametrize("what", ["source train", "target eval"])
def test_labels_that_are_mostly_void_are_warned_of(tmp_path, caplog, what):
    mostly = np.full((8, 8), IGNORE, np.uint8)
    mostly[0] = [0, 0, 0, 0, 1, 1, 1, 1]
    files = tree(tmp_path, [mostly])
    check(files, what)
    assert f"{what}: 88% of the pixels of the 1 labels read are void: the masks hold the ids" in (
        caplog.text
    )
    assert "255 (87.5%)" in suspicions(files)["mostly void"]


@pytest.mark.parametrize(
    ("count", "samples", "present", "level"),
    [(9, 3, 3, logging.INFO), (9, 3, 1, logging.WARNING), (9, None, 3, logging.WARNING),
     (9, 8, 3, logging.WARNING)],
)  # fmt: skip
def test_a_small_sample_that_lacks_a_class_is_no_warning(
    tmp_path, caplog, monkeypatch, count, samples, present, level
):
    monkeypatch.setattr(class_check, "ENOUGH", 5)
    labels = [ids(k, present, (4, 8)) for k in range(count)]
    scenes = tree(tmp_path, labels, classes=["a", "b", "c", "d"])
    with caplog.at_level(logging.INFO):
        check(scenes, samples=samples)
    (record,) = (r for r in caplog.records if "in none of" in r.getMessage())
    assert record.levelno == level
    of = f"{samples} labels read of {count}" if samples else f"{count} labels read:"
    assert of in record.getMessage()


def test_drawn_sets_are_what_they_are(caplog):
    check(Memory([picture(0)], [ids(0, 2)], 9))
    assert not caplog.text


def test_sets_in_which_all_is_well_are_silent(tmp_path, caplog):
    classes = own_folder(tmp_path, splits=["."])
    check(folder(tmp_path, classes=classes))
    assert not caplog.text
