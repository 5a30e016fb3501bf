"""Every layout on a small tree in its true form, against maps typed again from the sources."""

import json

import cv2
import numpy as np
import pytest
import torch
from make import (
    SIZE,
    acdc,
    bdd100k,
    cityscapes,
    cross_city,
    gta5,
    ids,
    label_ids,
    mapillary,
    picture,
    synthia,
    write,
)
from PIL import Image

from sfseg.data import street_layouts
from sfseg.errors import DataError
from sfseg.labels import CITYSCAPES, CROSS_CITY, SYNTHIA
from sfseg.metrics import ConfusionMatrix, Scores
from sfseg.types import IGNORE

LABEL_ID = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
SYNTHIA_ID = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7,
    "car": 8, "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12,
    "traffic light": 15, "terrain": 16, "rider": 17, "truck": 18, "bus": 19, "train": 20,
    "wall": 21,
}  # fmt: skip
MAPILLARY_ID = {
    13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8,
    29: 9, 27: 10, 19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18,
}  # fmt: skip


def mapped(stored, by_name, labels):
    """Class ids by a loop over the classes' names."""
    expected = np.full(stored.shape, IGNORE, np.uint8)
    for name, stored_id in by_name.items():
        if name in labels.classes:
            expected[stored == stored_id] = labels.classes.index(name)
    return expected


def names(files):
    return [files.name(k) for k in range(len(files))]


@pytest.mark.parametrize("labels", [CITYSCAPES, SYNTHIA, CROSS_CITY], ids=lambda s: s.name)
def test_cityscapes(tmp_path, labels):
    cityscapes(tmp_path)
    train = street_layouts.cityscapes(tmp_path, "train", classes=labels.name)
    assert names(train) == [
        f"leftImg8bit/train/{city}/{city}_{k:06d}_000019_leftImg8bit.png"
        for city, k in (("aachen", 0), ("aachen", 2), ("bochum", 1))
    ]
    assert train.labels is labels and train.official == 2975 and not train.unpaired
    for index, k in enumerate((0, 2, 1)):
        np.testing.assert_array_equal(train.image(index), picture(k))
        expected = mapped(label_ids(k, range(34)), LABEL_ID, labels)
        np.testing.assert_array_equal(train.label(index), expected)
    assert len(street_layouts.cityscapes(tmp_path, "val")) == 2
    test = street_layouts.cityscapes(tmp_path, "test")
    assert (len(test), test.has_labels, test.official) == (1, False, 1525)


def test_gta5_palette_labels_are_ids_and_odd_pairs_are_fitted(tmp_path):
    gta5(tmp_path)
    files = street_layouts.gta5(tmp_path)
    assert names(files) == [f"images/{k:05d}.png" for k in (1, 2, 3, 4)]
    for index in range(4):
        expected = mapped(label_ids(index + 1, range(35)), LABEL_ID, CITYSCAPES)
        np.testing.assert_array_equal(files.label(index), expected)
    # What a reader of colours would have seen: not one right id.
    stored = cv2.imread(str(tmp_path / "labels" / "00001.png"), cv2.IMREAD_GRAYSCALE)
    assert (stored != label_ids(1, range(35))).mean() > 0.9


@pytest.mark.parametrize(
    ("split", "numbers", "official"),
    [("train", (1, 4), 12403), ("val", (2,), 6382), ("test", (3,), 6181)],
)
def test_gta5_official_split(tmp_path, split, numbers, official):
    files = street_layouts.gta5(gta5(tmp_path), split)
    assert names(files) == [f"images/{k:05d}.png" for k in numbers]
    assert files.official == official
    assert files.label(len(files) - 1).shape == SIZE


def test_gta5_without_its_split_file(tmp_path):
    gta5(tmp_path, split=False)
    with pytest.raises(DataError, match=r"needs .*split\.mat, which does not exist; copy .*all"):
        street_layouts.gta5(tmp_path, "train")
    assert len(street_layouts.gta5(tmp_path, "all")) == 4


@pytest.mark.parametrize("content", [b"", b"not a matrix", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_a_broken_split_file_is_named(tmp_path, content):
    (gta5(tmp_path) / "split.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.mat is no split\.mat of GTA5"):
        street_layouts.gta5(tmp_path, "train")


def test_synthia_labels_have_16_bits_with_the_class_in_red(tmp_path):
    synthia(tmp_path)
    files = street_layouts.synthia(tmp_path)
    for index, number in enumerate((0, 1, 8999, 9000)):
        expected = mapped(label_ids(number, range(23)), SYNTHIA_ID, CITYSCAPES)
        np.testing.assert_array_equal(files.label(index), expected)
    # The trap: read the usual way, such a file is black.
    with Image.open(tmp_path / "GT" / "LABELS" / "0000001.png") as opened:
        assert np.asarray(opened)[..., 0].max() == 0


def test_synthia_splits(tmp_path):
    synthia(tmp_path)
    found = {s: names(street_layouts.synthia(tmp_path, s)) for s in ("all", "train", "val")}
    assert found["val"] == ["RGB/0009000.png"]
    assert found["all"] == found["train"] + found["val"]
    with pytest.raises(ValueError, match=r"split must be one of .*, got 'test'"):
        street_layouts.synthia(tmp_path, "test")


@pytest.mark.parametrize(("choice", "class_id"), [("ignore", IGNORE), ("road", 0)])
def test_synthia_lane_markings(tmp_path, choice, class_id):
    synthia(tmp_path, (3,))
    label = street_layouts.synthia(tmp_path, lane_marking=choice).label(0)
    assert set(label[label_ids(3, range(23)) == 22]) == {class_id}
    with pytest.raises(ValueError, match="lane_marking must be one of"):
        street_layouts.synthia(tmp_path, lane_marking="paint")


def test_synthia_with_16_classes(tmp_path):
    files = street_layouts.synthia(synthia(tmp_path, (3,)), classes="synthia")
    expected = mapped(label_ids(3, range(23)), SYNTHIA_ID, SYNTHIA)
    np.testing.assert_array_equal(files.label(0), expected)


@pytest.mark.parametrize("city", street_layouts.CITIES)
def test_cross_city(tmp_path, city):
    cross_city(tmp_path)
    train = street_layouts.cross_city(tmp_path, city, "train")
    test = street_layouts.cross_city(tmp_path, city, "test")
    assert not train.has_labels and len(train) == 3
    assert names(test) == [f"{city}/Images/Test/pano_{k:05d}_{k}_180.png" for k in (0, 7)]
    for index, k in enumerate((0, 7)):
        stored = np.array(Image.open(test.label_file(index)))
        expected = mapped(stored, LABEL_ID, CROSS_CITY)
        np.testing.assert_array_equal(test.label(index), expected)
        np.testing.assert_array_equal(test.image(index), picture(k + 20))
    assert (train.official, test.official) == (3200, 100)


def test_several_cities_of_cross_city_are_one_set(tmp_path):
    cross_city(tmp_path, ("Rio", "Rome"))
    for split, count in (("train", 3), ("test", 2)):
        both = street_layouts.cross_city(tmp_path, ["Rio", "Rome"], split)
        parts = [street_layouts.cross_city(tmp_path, city, split) for city in ("Rio", "Rome")]
        found = [both.name(k) for k in range(len(both))]
        assert found == [part.name(k) for part in parts for k in range(count)]
        assert both.official == 2 * parts[0].official
    np.testing.assert_array_equal(both.label(2), parts[1].label(0))
    with pytest.raises(ValueError, match=r"city must be one of .* got 'Paris'"):
        street_layouts.cross_city(tmp_path, ["Rio", "Paris"], "train")


def test_cross_city_names_occur_in_both_splits_but_differ_as_paths(tmp_path):
    cross_city(tmp_path, ("Rome",))
    train = street_layouts.cross_city(tmp_path, "Rome", "train")
    test = street_layouts.cross_city(tmp_path, "Rome", "test")
    assert train.images[0].stem == test.images[0].stem
    assert train.name(0) != test.name(0)


def test_cross_city_is_13_classes_at_most(tmp_path):
    cross_city(tmp_path, ("Rome",))
    with pytest.raises(ValueError, match=r"cityscapes has \['wall', 'fence', .*do not tell apart"):
        street_layouts.cross_city(tmp_path, "Rome", "test", classes="cityscapes")
    with pytest.raises(ValueError, match=r"city must be one of .*'Taipei'.*, got 'Berlin'"):
        street_layouts.cross_city(tmp_path, "Berlin", "test")


@pytest.mark.parametrize("new", [True, False])
def test_bdd100k(tmp_path, new):
    bdd100k(tmp_path, new)
    files = street_layouts.bdd100k(tmp_path, "train")
    assert (len(files), files.official, files.unpaired) == (3, 7000, [])
    for index in range(3):
        np.testing.assert_array_equal(files.label(index), ids(index, 19))
    assert not street_layouts.bdd100k(tmp_path, "test").has_labels


@pytest.mark.parametrize("version", [True, False])
def test_mapillary(tmp_path, version):
    mapillary(tmp_path, version)
    files = street_layouts.mapillary(tmp_path, "training")
    assert (len(files), files.official, files.unpaired) == (3, 18000, [])
    for index in range(3):
        stored = label_ids(index, range(66), (SIZE[0] + 2 * index, SIZE[1]))
        expected = [[MAPILLARY_ID.get(int(k), IGNORE) for k in row] for row in stored]
        np.testing.assert_array_equal(files.label(index), expected)
        assert files.size(index) == stored.shape
    assert not street_layouts.mapillary(tmp_path, "testing").has_labels


def test_acdc(tmp_path):
    acdc(tmp_path)
    files = street_layouts.acdc(tmp_path, "val")
    assert [name.split("/")[1] for name in names(files)] == ["fog", "night", "rain", "snow"]
    np.testing.assert_array_equal(files.label(1), ids(5, 19))
    assert len(street_layouts.acdc(tmp_path, "val", conditions=["night"])) == 1
    reference = street_layouts.acdc(tmp_path, "train_ref")
    assert len(reference) == 4 and not reference.has_labels
    with pytest.raises(ValueError, match=r"conditions must be one of .*, got 'dusk'"):
        street_layouts.acdc(tmp_path, "val", conditions=["dusk"])


@pytest.mark.parametrize(
    ("make", "open_files", "folder"),
    [
        (cityscapes, lambda r: street_layouts.cityscapes(r, "train"), "leftImg8bit/train"),
        (cityscapes, lambda r: street_layouts.cityscapes(r, "train"), "gtFine/train"),
        (gta5, street_layouts.gta5, "labels"),
        (synthia, street_layouts.synthia, "GT/LABELS"),
        (cross_city, lambda r: street_layouts.cross_city(r, "Rio", "test"), "Rio/Labels/Test"),
        (bdd100k, lambda r: street_layouts.bdd100k(r, "val"), "labels/sem_seg/masks/val"),
        (mapillary, lambda r: street_layouts.mapillary(r, "training"), "training/images"),
        (acdc, lambda r: street_layouts.acdc(r, "val"), "rgb_anon/snow/val"),
    ],
)
def test_a_missing_folder_is_named_with_the_setting(tmp_path, make, open_files, folder):
    make(tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{folder} does not exist; point data\.root at the data"):
        open_files(tmp_path)


def test_a_picture_of_the_labels_is_refused(tmp_path):
    cityscapes(tmp_path)
    files = street_layouts.cityscapes(tmp_path, "train")
    colour = files.label_file(0).with_name("aachen_000000_000019_gtFine_color.png")
    colour.replace(files.label_file(0))
    with pytest.raises(DataError, match=r"2048 pixels of colours where class ids are expected"):
        files.label(0)


def test_train_ids_among_label_ids_are_recognised(tmp_path):
    files = street_layouts.cityscapes(cityscapes(tmp_path), "train")
    write(files.label_file(0), ids(0, 19))
    with pytest.raises(DataError, match=r"255; these look like Cityscapes trainIds where labelIds"):
        files.label(0)


def test_label_ids_among_train_ids_are_recognised(tmp_path):
    files = street_layouts.bdd100k(bdd100k(tmp_path), "train")
    write(files.label_file(0), label_ids(0, range(34)))
    with pytest.raises(DataError, match=r"19, 20, .*these look like Cityscapes labelIds where"):
        files.label(0)


def test_a_photograph_among_labels_is_recognised(tmp_path):
    files = street_layouts.bdd100k(bdd100k(tmp_path), "train")
    write(files.label_file(0), picture(0)[..., 0])
    with pytest.raises(DataError, match="those of a photograph, of a colour mask stored grey"):
        files.label(0)


def iou_by_hand(prediction, label, class_id):
    valid = label != IGNORE
    right = int(((prediction == class_id) & (label == class_id) & valid).sum())
    union = int((((prediction == class_id) | (label == class_id)) & valid).sum())
    return right / union if union else float("nan")


@pytest.mark.parametrize(
    ("labels", "subsets"),
    [
        (CITYSCAPES, {"mIoU": 19, "mIoU16": 16, "mIoU13": 13}),
        (SYNTHIA, {"mIoU": 16, "mIoU16": 16, "mIoU13": 13}),
        (CROSS_CITY, {"mIoU": 13, "mIoU13": 13}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_scores_of_all_classes_and_subsets(tmp_path, labels, subsets):
    """What the files say, through the matrix, against sets of pixels counted by hand."""
    files = street_layouts.cityscapes(cityscapes(tmp_path), "train", classes=labels.name)
    matrix = ConfusionMatrix(labels.num_classes)
    pairs = []
    for index in range(len(files)):
        label = files.label(index)
        noise = np.random.default_rng(index).integers(labels.num_classes, size=SIZE)
        prediction = np.where(label % 3 == 0, noise, label % 200).astype(np.uint8)
        prediction[label == IGNORE] = 0
        prediction %= labels.num_classes
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
        pairs.append((prediction, label))
    prediction, label = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    scores = Scores.of(matrix.compute(), labels)
    by_name = {name: iou_by_hand(prediction, label, k) for k, name in enumerate(labels.classes)}
    assert scores.iou == pytest.approx(list(by_name.values()))
    without16 = {"terrain", "truck", "train"}
    without13 = without16 | {"wall", "fence", "pole"}
    expected = {
        "mIoU": np.mean(list(by_name.values())),
        "mIoU16": np.mean([v for n, v in by_name.items() if n not in without16]),
        "mIoU13": np.mean([v for n, v in by_name.items() if n not in without13]),
    }
    assert set(scores.miou) == set(subsets)
    for name, size in subsets.items():
        assert len(labels.subsets[name]) == size
        assert scores.miou[name] == pytest.approx(expected[name])


def test_the_two_protocols_of_synthia_differ_as_described():
    """19 outputs: pixels of the missing classes count against others; 16 outputs: they do not."""
    names19, names16 = CITYSCAPES.classes, SYNTHIA.classes
    label19 = torch.tensor([names19.index(n) for n in ("road", "car", "truck")], dtype=torch.uint8)
    guess19 = torch.tensor([names19.index(n) for n in ("road", "car", "car")], dtype=torch.uint8)
    label16 = torch.tensor([names16.index("road"), names16.index("car"), IGNORE]).to(torch.uint8)
    guess16 = torch.tensor([names16.index(n) for n in ("road", "car", "car")]).to(torch.uint8)
    scores = {}
    for name, labels, guess, label in (
        ("19-way", CITYSCAPES, guess19, label19),
        ("16-way", SYNTHIA, guess16, label16),
    ):
        matrix = ConfusionMatrix(labels.num_classes)
        matrix.update(guess, label)
        scores[name] = Scores.of(matrix.compute(), labels)
    assert scores["16-way"].miou["mIoU16"] == 1
    assert scores["19-way"].miou["mIoU16"] == (1 + 0.5) / 2  # half of what is called car is truck


V2 = "other numbers for the classes; take those of version 1.2"


@pytest.mark.parametrize("config", ["config.json", "config_v2.0.json"])
def test_vistas_2_by_its_configuration(tmp_path, config):
    mapillary(tmp_path, version=False)
    (tmp_path / config).write_text(json.dumps({"version": "2.0", "labels": [{}] * 124}))
    with pytest.raises(DataError, match=rf"{config} is of 124 classes, version 2.0: .*{V2}"):
        street_layouts.mapillary(tmp_path, "training")


@pytest.mark.parametrize("text", [json.dumps({"version": "1.1", "labels": [{}] * 66}), "{", "[]"])
def test_vistas_1_2_by_its_configuration(tmp_path, text):
    mapillary(tmp_path, version=False)
    (tmp_path / "config.json").write_text(text)
    assert len(street_layouts.mapillary(tmp_path, "training")) == 3


def test_both_versions_of_vistas_are_no_trouble(tmp_path):
    mapillary(tmp_path)
    (tmp_path / "training" / "v2.0" / "labels").mkdir(parents=True)
    for version, count in (("1.2", 66), ("2.0", 124)):
        content = json.dumps({"version": version, "labels": [{}] * count})
        (tmp_path / f"config_v{version}.json").write_text(content)
    assert street_layouts.mapillary(tmp_path, "training").label(0).shape == SIZE


def test_vistas_2_alone(tmp_path):
    mapillary(tmp_path)
    (tmp_path / "training" / "v1.2").rename(tmp_path / "training" / "v2.0")
    with pytest.raises(DataError, match=rf"training has v2\.0 and no v1\.2: .*{V2}"):
        street_layouts.mapillary(tmp_path, "training")


def test_ids_of_vistas_2_are_recognised(tmp_path):
    files = street_layouts.mapillary(mapillary(tmp_path, version=False), "training")
    write(files.label_file(0), label_ids(0, range(124)), "P")
    with pytest.raises(DataError, match=r"66, 67, .*these look like labels of Mapillary Vistas 2"):
        files.label(0)


@pytest.mark.parametrize(
    "name", ["Stereo_Left/Omni_F/000000.png", "000000.png", "0009400.png", "0000001_b.png"]
)
def test_frames_of_synthias_video_sequences_are_refused(tmp_path, name):
    synthia(tmp_path)
    write(tmp_path / "RGB" / name, picture(0))
    with pytest.raises(DataError, match=rf"RGB/{name} is no frame of SYNTHIA-RAND-CITYSCAPES, wh"):
        street_layouts.synthia(tmp_path)
