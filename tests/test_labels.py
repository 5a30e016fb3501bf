import json

import pytest
import yaml

from sfseg.data.classes_file import load_label_space
from sfseg.labels import (
    BUILT_IN,
    CAMVID,
    CITYSCAPES,
    CROSS_CITY,
    SYNTHIA,
    LabelSpace,
    distinct_colour,
)


def space(num_classes=3, **changes):
    values = {
        "name": "mine",
        "classes": tuple(f"class {k}" for k in range(num_classes)),
        "palette": tuple(distinct_colour(k) for k in range(num_classes)),
    }
    return LabelSpace(**(values | changes))


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "task" / "classes.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("num_classes", [2, 3, 253])
def test_from_2_to_253_classes(num_classes):
    assert space(num_classes).num_classes == num_classes
    assert space(num_classes).subsets["mIoU"] == tuple(range(num_classes))


@pytest.mark.parametrize("num_classes", [0, 1, 254, 255, 300])
def test_other_numbers_of_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=f"2 to 253 names, got {num_classes}"):
        space(num_classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("car", "sky", "car")}, r"distinct, got \['car', 'sky', 'car'\]"),
        ({"palette": ((0, 0, 0), (1, 1, 1))}, "one colour for each of the 3 classes, got 2"),
        ({"palette": ()}, "got 0"),
        ({"subsets": {"few": ()}}, r"subset 'few' must list ids from 0 to 2, got \[\]"),
        ({"subsets": {"few": (0, 3)}}, r"from 0 to 2, got \[0, 3\]"),
        ({"subsets": {"few": (-1,)}}, r"got \[-1\]"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        space(**changes)


def test_colours_outside_a_byte_are_refused():
    with pytest.raises(ValueError, match="300"):
        space(palette=((300, 0, 0), (1, 1, 1), (2, 2, 2)))


def test_no_subset_may_replace_the_mean_over_all():
    with pytest.raises(ValueError, match="mIoU"):
        space(subsets={"mIoU": (0,)})


@pytest.mark.parametrize("labels", BUILT_IN.values(), ids=BUILT_IN)
def test_the_way_through_a_checkpoint_and_back(labels):
    assert LabelSpace.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
    assert next(iter(labels.subsets)) == "mIoU"


@pytest.mark.parametrize("labels", BUILT_IN.values(), ids=BUILT_IN)
def test_built_in_colours_tell_the_classes_apart(labels):
    assert len(set(labels.palette)) == labels.num_classes
    assert load_label_space(labels.name) is labels


@pytest.mark.parametrize(
    ("subset", "absent"),
    [
        ("mIoU16", {"terrain", "truck", "train"}),
        ("mIoU13", {"terrain", "truck", "train", "wall", "fence", "pole"}),
    ],
)
def test_synthia_subsets(subset, absent):
    members = {CITYSCAPES.classes[k] for k in CITYSCAPES.subsets[subset]}
    assert members == set(CITYSCAPES.classes) - absent
    assert len(members) == int(subset.removeprefix("mIoU"))


def test_ids_are_the_published_ones():
    train_ids = {"road": 0, "pole": 5, "sky": 10, "person": 11, "car": 13, "bicycle": 18}
    assert {name: CITYSCAPES.classes.index(name) for name in train_ids} == train_ids
    segnet = {"sky": 0, "road": 3, "tree": 5, "car": 8, "bicyclist": 10}
    assert {name: CAMVID.classes.index(name) for name in segnet} == segnet


def test_default_colours_are_those_of_pascal_voc():
    published = [
        (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0),
    ]  # fmt: skip
    assert [distinct_colour(k) for k in range(10)] == published
    everything = {distinct_colour(k) for k in range(253)}
    assert len(everything) == 253
    assert (0, 0, 0) not in everything


def test_a_file_with_nothing_but_names(write):
    labels = load_label_space(write("classes: [road, car, 3]"))
    assert labels.classes == ("road", "car", "3")
    assert labels.palette == ((128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert labels.name == "task"


def test_a_file_with_everything(write):
    values = {
        "name": "lab",
        "classes": ["road", "car"],
        "palette": [[1, 2, 3], [4, 5, 6]],
        "subsets": {"vehicles": [1]},
        "ignore": [7],
    }
    labels = load_label_space(str(write(yaml.safe_dump(values))))
    assert labels == LabelSpace("lab", ("road", "car"), ((1, 2, 3), (4, 5, 6)), {"vehicles": (1,)})


@pytest.mark.parametrize("text", ["", "- road\n- car\n", "names: [road]", "classes: 3", "classes:"])
def test_a_file_without_classes_is_refused(write, text):
    with pytest.raises(ValueError, match=r"classes\.yaml must hold a list 'classes'"):
        load_label_space(write(text))


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = r"\['camvid', 'cityscapes', 'cross_city', 'synthia'\]"
    with pytest.raises(ValueError, match=rf"{known}.*'citiscapes'"):
        load_label_space("citiscapes")


def test_a_file_that_is_no_yaml_is_named(write):
    path = write("classes: [road, car\nvalues: [1]\n")
    with pytest.raises(ValueError, match=str(path)):
        load_label_space(path)


def test_some_classes_of_a_label_space_keep_names_colours_and_subsets():
    missing = {"terrain", "truck", "train"}
    assert SYNTHIA.classes == tuple(n for n in CITYSCAPES.classes if n not in missing)
    assert set(SYNTHIA.subsets) == {"mIoU", "mIoU16", "mIoU13"}
    assert SYNTHIA.subsets["mIoU16"] == SYNTHIA.subsets["mIoU"] == tuple(range(16))
    # Positions of the 13 among the 16, as the releases of that protocol list them.
    assert SYNTHIA.subsets["mIoU13"] == (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    assert CROSS_CITY.classes == tuple(
        n for n in SYNTHIA.classes if n not in {"wall", "fence", "pole"}
    )
    assert CROSS_CITY.palette[12] == CITYSCAPES.palette[18]
    assert set(CROSS_CITY.subsets) == {"mIoU", "mIoU13"}


def test_a_missing_folder_of_classes_is_said_to_be_missing(tmp_path):
    with pytest.raises(ValueError, match=r"nor does the folder .*nowhere, check data\.root"):
        load_label_space(tmp_path / "nowhere" / "classes.yaml")
