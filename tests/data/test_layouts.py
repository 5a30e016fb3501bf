import shutil

import numpy as np
import pytest
import yaml
from make import CAMVID_FRAMES, SIZE, camvid, ids, own_folder, picture, space, write

from sfseg.data import layouts
from sfseg.data.decoding import Decoding, Palette
from sfseg.data.files import Files
from sfseg.data.label_ids import INVALID, id_table
from sfseg.errors import DataError
from sfseg.labels import CAMVID, LabelSpace, distinct_colour
from sfseg.types import IGNORE

DAY, DUSK = ["0006R0", "0016E5"], ["0001TP"]


def one_file(tmp_path, stored, labels=None, table=None, mode=None):
    """The label of a set that holds one file with these stored pixels."""
    labels = labels or space(3)
    mask = write(tmp_path / "mask.png", stored, mode)
    table = id_table({k: k for k in range(labels.num_classes)}) if table is None else table
    palette = Palette({colour: k for k, colour in enumerate(labels.palette)})
    decoding = Decoding(labels, table, "palette", palette)
    return Files(tmp_path, [tmp_path / "image.png"], [mask], decoding).label(0)


def colours(label, palette):
    """An RGB mask, void black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[label]


@pytest.mark.parametrize(
    ("split", "sequences", "names"),
    [
        ("train", DAY, ["0006R0_f00930", "0016E5_00390", "0016E5_00420"]),
        ("train", DUSK, ["0001TP_006690", "0001TP_006720"]),
        ("val", ["0016E5"], CAMVID_FRAMES["val"]),
        ("test", DUSK, ["0001TP_008550", "0001TP_008580"]),
        ("test", ["Seq05VD"], ["Seq05VD_f00000"]),
        ("test", [""], CAMVID_FRAMES["test"]),
        ("test", ["0016E5"], []),
    ],
)
def test_camvid_is_split_by_sequence(tmp_path, split, sequences, names):
    files = layouts.camvid(camvid(tmp_path), split, sequences)
    assert [files.name(k) for k in range(len(files))] == [f"{split}/{n}.png" for n in names]
    assert files.has_labels and files.labels is CAMVID


def test_camvid_void_is_ignored_and_classes_keep_their_ids(tmp_path):
    files = layouts.camvid(camvid(tmp_path), "train", [""])
    for index in range(len(files)):
        stored = ids(index, 11, void=11)
        np.testing.assert_array_equal(files.label(index), np.where(stored == 11, IGNORE, stored))
        np.testing.assert_array_equal(files.image(index), picture(index))
        assert files.size(index) == SIZE
        assert files.label(index).dtype == np.uint8


def test_camvid_may_be_the_folder_around(tmp_path):
    camvid(tmp_path / "camvid" / "CamVid")
    inside = layouts.camvid(tmp_path / "camvid" / "CamVid", "test", DUSK)
    around = layouts.camvid(tmp_path / "camvid", "test", DUSK)
    assert list(layouts.camvid(str(tmp_path), "test", DUSK).images) == list(inside.images)
    assert around.images == inside.images and around.masks == inside.masks


@pytest.mark.parametrize("missing", ["train", "trainannot"])
def test_camvid_without_a_folder_is_refused(tmp_path, missing):
    shutil.rmtree(camvid(tmp_path) / missing)
    with pytest.raises(DataError, match=rf"/{missing} does not exist; point data\.root"):
        layouts.camvid(tmp_path, "train", DAY)


def test_camvid_without_a_label(tmp_path):
    (camvid(tmp_path) / "trainannot" / "0016E5_00390.png").unlink()
    files = layouts.camvid(tmp_path, "train", DAY)
    assert [files.name(k) for k in files.unpaired] == ["train/0016E5_00390.png"]
    with pytest.raises(DataError, match=r"trainannot/0016E5_00390\.png cannot be read: No such"):
        files.label(1)
    assert not layouts.camvid(tmp_path, "train", DUSK).unpaired


def test_own_folder_with_splits(tmp_path):
    classes = own_folder(tmp_path)
    files = layouts.folder(tmp_path, "val", classes=classes)
    assert [files.name(k) for k in range(3)] == [f"images/val/{k}.png" for k in range(3)]
    for index in range(3):
        np.testing.assert_array_equal(files.label(index), ids(index, 3))
        np.testing.assert_array_equal(files.image(index), picture(index))


@pytest.mark.parametrize("split", [None, "val"])
def test_own_folder_without_splits(tmp_path, split):
    classes = own_folder(tmp_path, splits=["."])
    files = layouts.folder(tmp_path, split, classes=classes)
    assert [files.name(k) for k in range(len(files))] == [f"images/{k}.png" for k in range(3)]


def test_masks_are_matched_by_sub_folder_and_name_with_any_suffix(tmp_path):
    classes = own_folder(tmp_path, count=0)
    for seed, name in enumerate(["b/x.v1", "a/x.v1", "x.v1"]):
        write(tmp_path / "images" / f"{name}.JPG", picture(seed))
        write(tmp_path / "masks" / f"{name}.png", ids(seed, 3))
    write(tmp_path / "masks" / "spare.png", ids(9, 3))
    files = layouts.folder(tmp_path, classes=classes)
    assert [files.name(k) for k in range(3)] == [
        "images/a/x.v1.JPG", "images/b/x.v1.JPG", "images/x.v1.JPG",
    ]  # fmt: skip
    for index, seed in enumerate((1, 0, 2)):
        np.testing.assert_array_equal(files.label(index), ids(seed, 3))


def test_own_folder_without_masks_is_unlabelled(tmp_path):
    classes = own_folder(tmp_path, masks=False)
    files = layouts.folder(tmp_path, "train", classes=classes)
    assert not files.has_labels
    with pytest.raises(ValueError, match=r"images/train/1\.png has no label"):
        files.label(1)


def test_folders_may_have_other_names(tmp_path):
    classes = own_folder(tmp_path)
    (tmp_path / "images").rename(tmp_path / "leftImg")
    (tmp_path / "masks").rename(tmp_path / "gtFine")
    files = layouts.folder(tmp_path, "train", classes=classes, images="leftImg", masks="gtFine")
    assert len(files) == 3 and files.has_labels


def test_a_missing_root_names_the_setting(tmp_path):
    classes = own_folder(tmp_path)
    with pytest.raises(DataError, match=r"/none does not exist; point data\.source_root at"):
        layouts.folder(tmp_path / "none", classes=classes, argument="data.source_root")
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(DataError, match=r"/images does not exist; point data\.root"):
        layouts.folder(tmp_path, classes=classes)


def test_missing_masks_are_known(tmp_path):
    classes = own_folder(tmp_path)
    for k in (1, 2):
        (tmp_path / "masks" / "train" / f"{k}.png").unlink()
    files = layouts.folder(tmp_path, "train", classes=classes)
    assert files.unpaired == [1, 2]
    with pytest.raises(DataError, match=r"masks/train/1\.png cannot be read"):
        files.label(1)


def test_stored_ids_are_remapped(tmp_path):
    classes = own_folder(tmp_path, count=1, values=[7, 0, 200], ignore=[3, 4])
    stored = np.array([[7, 0, 200, 3, 4, IGNORE]], np.uint8)
    write(tmp_path / "masks" / "train" / "0.png", stored)
    files = layouts.folder(tmp_path, "train", classes=classes)
    assert files.label(0).tolist() == [[0, 1, 2, IGNORE, IGNORE, IGNORE]]


def test_the_example_with_values_and_ignore_of_grey_masks(tmp_path):
    classes = own_folder(tmp_path, count=1, values=[1, 2, 3], ignore=[0])
    write(tmp_path / "masks" / "train" / "0.png", np.array([[0, 1, 2, 3]], np.uint8))
    files = layouts.folder(tmp_path, "train", classes=classes)
    assert files.label(0).tolist() == [[IGNORE, 0, 1, 2]]


def test_values_of_grey_masks_do_not_touch_colour_masks(tmp_path):
    palette = [[9, 0, 0], [0, 9, 0], [0, 0, 9]]
    classes = own_folder(tmp_path, count=1, values=[1, 2, 3], ignore=[0], palette=palette)
    write(tmp_path / "masks" / "train" / "0.png", colours(np.array([[0, 1]], np.uint8), palette))
    files = layouts.folder(tmp_path, "train", classes=classes)
    assert files.label(0).tolist() == [[0, 1]]


def test_too_few_values_are_refused(tmp_path):
    classes = own_folder(tmp_path, values=[1, 2])
    with pytest.raises(ValueError, match="one stored id for each of the 3 classes, got 2"):
        layouts.folder(tmp_path, "train", classes=classes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": None}, None),
        ({"values": None}, None),
        ({"values": [1, 1, 2]}, "1"),
        ({"values": [1, 2, 70000]}, "70000"),
        ({"values": [0, 1, 2], "ignore": [2]}, "2"),
    ],
    ids=["ignore left empty", "values left empty", "twice", "too large", "class and ignored"],
)
def test_odd_settings_of_ids(tmp_path, settings, message):
    classes = own_folder(tmp_path, **settings)
    if message is None:
        assert layouts.folder(tmp_path, "train", classes=classes).label(0).max() == IGNORE
    else:
        with pytest.raises(ValueError, match=rf"classes\.yaml.*{message}"):
            layouts.folder(tmp_path, "train", classes=classes)


@pytest.mark.parametrize("num_classes", [2, 253])
@pytest.mark.parametrize("mode", [None, "P"], ids=["grey", "palette"])
def test_ids_of_grey_and_palette_masks(tmp_path, num_classes, mode):
    label = ids(0, num_classes)
    np.testing.assert_array_equal(one_file(tmp_path, label, space(num_classes), mode=mode), label)


@pytest.mark.parametrize("num_classes", [2, 253])
def test_colours_of_rgb_masks(tmp_path, num_classes):
    label, labels = ids(0, num_classes), space(num_classes)
    found = one_file(tmp_path, colours(label, labels.palette), labels)
    np.testing.assert_array_equal(found, label)


def test_void_everywhere_and_one_pixel(tmp_path):
    for value, expected in ((IGNORE, IGNORE), (2, 2)):
        assert one_file(tmp_path, np.array([[value]], np.uint8)).tolist() == [[expected]]


def test_ids_of_1_bit_masks(tmp_path):
    stored = np.array([[False, True, True]])
    assert one_file(tmp_path, stored, space(2)).tolist() == [[0, 1, 1]]


def test_black_may_be_a_class(tmp_path):
    labels = LabelSpace("t", ("dark", "red"), ((0, 0, 0), (9, 0, 0)))
    rgb = np.array([[[0, 0, 0], [9, 0, 0]]], np.uint8)
    assert one_file(tmp_path, rgb, labels).tolist() == [[0, 1]]


def test_unknown_ids_are_counted_and_named_with_their_file(tmp_path):
    stored = np.array([[0, 1, 2, 3, 3, 19, IGNORE]], np.uint8)
    with pytest.raises(
        DataError,
        match=r"mask\.png has 3 pixels with ids that are no class of mine \(0 to 2, void 255\): "
        r"3, 19; map them",
    ):
        one_file(tmp_path, stored)


@pytest.mark.parametrize("stored", [3, 100, 253, 254])
def test_any_unknown_id_is_refused(tmp_path, stored):
    for table in (None, id_table({0: 0, 1: 1, 2: 2, 9: IGNORE}), id_table({0: 2, 1: 1, 2: 0})):
        with pytest.raises(DataError, match=rf"1 pixels .*: {stored};"):
            one_file(tmp_path, np.array([[0, stored, IGNORE]], np.uint8), table=table)


@pytest.mark.parametrize("seed", range(20))
def test_any_table_is_looked_up(tmp_path, seed):
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 254))
    stored = rng.permutation(256)[: num_classes + 1]
    classes = [*range(num_classes), IGNORE]
    ids_of = dict(zip(stored.tolist(), classes, strict=True))
    label = stored[rng.integers(len(stored), size=(7, 9))].astype(np.uint8)
    expected = [[ids_of[int(value)] for value in row] for row in label]
    found = one_file(tmp_path, label, space(num_classes), id_table(ids_of))
    assert (found.dtype, found.tolist()) == (np.uint8, expected)


def test_many_unknown_ids_are_cut_short(tmp_path):
    with pytest.raises(DataError, match=r"97 pixels .*: 3, 4, 5, 6, 7, 8, 9, 10, \.\.\.;"):
        one_file(tmp_path, np.arange(100, dtype=np.uint8)[None])


def test_unknown_ids_of_16_bits(tmp_path):
    stored = np.array([[0, 1, 26001, 256]], np.uint16)
    with pytest.raises(DataError, match=r"mask\.png has 2 pixels .*: 256, 26001;"):
        one_file(tmp_path, stored)
    assert one_file(tmp_path, stored[:, :2]).tolist() == [[0, 1]]


def test_unknown_colours_are_counted_and_named_with_their_file(tmp_path):
    label = np.array([[0, 1]], np.uint8)
    rgb = np.concatenate([colours(label, space().palette), [[[7, 8, 9]] * 2]], axis=1)
    with pytest.raises(DataError, match=r"mask\.png is an RGB mask with 2 pixels .*\(7, 8, 9\)"):
        one_file(tmp_path, rgb.astype(np.uint8))


def test_deep_colours_do_not_pass_for_others(tmp_path):
    labels = LabelSpace("t", ("a", "b"), ((1, 0, 0), (0, 1, 0)))
    deep = Decoding(labels, id_table({0: 0}), "palette", Palette({(1, 0, 0): 0, (0, 1, 0): 1}))
    with pytest.raises(DataError, match="8 bits"):
        deep(np.array([[[0, 256, 0]]], np.uint16), tmp_path)


def test_table_of_ids():
    table = id_table({7: 0, 3: 1, 4: IGNORE})
    assert {k: int(v) for k, v in enumerate(table) if v != INVALID} == {
        3: 1, 4: IGNORE, 7: 0, 255: IGNORE,
    }  # fmt: skip
    assert id_table({255: 2})[255] == 2


@pytest.mark.parametrize("stored", [-1, 65536])
def test_stored_ids_outside_16_bits_are_refused(stored):
    with pytest.raises(ValueError, match=rf"in \[0, 65535\], got {stored}"):
        id_table({stored: 0})


def test_masks_without_images_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="one per image, got 2 for 1"):
        Files(tmp_path, [path], [path, path], Decoding(space(), id_table({})))


def test_the_yaml_of_the_classes_names_the_label_space(tmp_path):
    classes = own_folder(tmp_path / "lab", palette=[list(distinct_colour(k)) for k in (5, 6, 7)])
    labels = layouts.folder(tmp_path / "lab", "train", classes=str(classes)).labels
    assert labels.name == "lab"
    assert labels.classes == ("class 0", "class 1", "class 2")
    assert labels.palette == tuple(distinct_colour(k) for k in (5, 6, 7))
    assert yaml.safe_load(classes.read_text())["classes"] == list(labels.classes)
