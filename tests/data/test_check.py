import numpy as np
import pytest
from make import Memory, ids, own_folder, picture, truncations, write

from sfseg.data import check as module
from sfseg.data.check import check_scenes, count_classes, look, look_at
from sfseg.data.images import read_image, read_label
from sfseg.data.layouts import folder
from sfseg.errors import DataError
from sfseg.types import IGNORE


def memory(count=3, **labels):
    stored = [labels.get(f"label_{k}", ids(k, 3)) for k in range(count)]
    return Memory([picture(k) for k in range(count)], stored)


def check(scenes, with_labels=True, samples=None):
    check_scenes(scenes, "source train", with_labels=with_labels, samples=samples)


@pytest.fixture
def tree(tmp_path):
    classes = own_folder(tmp_path, splits=["."], count=8)
    return tmp_path, lambda: folder(tmp_path, classes=classes)


def test_good_data_pass(tree):
    _, open_scenes = tree
    check(open_scenes())
    check(memory())


def test_an_empty_set_is_refused():
    for samples in (None, 0, 5):
        with pytest.raises(DataError, match="the source train set is empty; check its folder"):
            check(memory(0), samples=samples)


@pytest.mark.parametrize(
    ("samples", "read"),
    [
        (None, list(range(9))), (0, []), (1, [0]), (2, [0, 8]), (3, [0, 4, 8]),
        (5, [0, 2, 4, 6, 8]), (9, list(range(9))), (100, list(range(9))),
    ],
)  # fmt: skip
def test_samples_are_spread_evenly(samples, read):
    scenes, seen = memory(9), []
    scenes.image = lambda index: seen.append(index) or picture(index)
    check(scenes, samples=samples)
    assert sorted(seen) == read
    assert scenes.opened == len(read)


def test_labels_nobody_reads_are_not_opened():
    scenes = memory(3, label_0=np.zeros((1, 1), np.uint8))
    check(scenes, with_labels=False)
    assert scenes.opened == 0


def test_every_broken_file_is_named(tree):
    root, open_scenes = tree
    image, mask = root / "images" / "2.png", root / "masks" / "5.png"
    image.write_bytes(truncations(image)[2])
    mask.write_bytes(b"")
    (root / "images" / "7.png").write_text("not an image")
    with pytest.raises(DataError, match="source train: 3 of 8 scenes read") as error:
        check(open_scenes())
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 3
    for line, part in zip(lines, ("images/2.png is", "5.png is empty", "7.png is no"), strict=True):
        assert part in line


def test_a_long_list_is_cut_short(tree):
    root, open_scenes = tree
    for path in (root / "masks").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"8 of 8 scenes read(\n  .*is empty){5}\n  and 3 more$"):
        check(open_scenes())


def test_sizes_that_differ_are_named():
    scenes = memory(3, label_1=ids(0, 3, (64, 32)))
    with pytest.raises(
        DataError, match=r"memory/1: the image has 64x32 pixels \(.*\), its label 32x64"
    ):
        check(scenes)


def test_ids_out_of_range_are_named(tree):
    root, open_scenes = tree
    write(root / "masks" / "3.png", np.full((32, 64), 3, np.uint8))
    with pytest.raises(DataError, match=r"1 of 8 .*\n.*masks/3\.png has 2048 pixels .*: 3;"):
        check(open_scenes())


def test_labels_that_are_void_everywhere_are_refused():
    void = np.full((32, 64), IGNORE, np.uint8)
    everywhere = {f"label_{k}": void for k in range(3)}
    with pytest.raises(DataError, match=r"pixels of the 3 labels read are void \(255\)"):
        check(memory(3, **everywhere))
    check(memory(3, **everywhere), with_labels=False)
    check(memory(3, **everywhere), samples=0)
    almost = void.copy()
    almost[5, 5] = 0
    check(memory(3, **(everywhere | {"label_1": almost})))


def test_a_single_pixel_will_do():
    check(Memory([picture(0, (1, 1))], [np.zeros((1, 1), np.uint8)]))


def test_missing_labels_are_refused_before_anything_is_read(tree):
    root, open_scenes = tree
    for k in (2, 5):
        (root / "masks" / f"{k}.png").unlink()
    (root / "images" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 8 images have no label file; (.|\n)*images/5\.png$"):
        check(open_scenes(), samples=0)


def test_missing_labels_that_nobody_reads_are_no_fault(tree):
    root, open_scenes = tree
    (root / "masks" / "2.png").unlink()
    check(open_scenes(), with_labels=False)


def test_labels_of_one_class_are_warned_of(tree, caplog):
    root, open_scenes = tree
    for k in (1, 6):
        write(root / "masks" / f"{k}.png", np.zeros((32, 64), np.uint8))
    check(open_scenes())
    assert "source train: 2 of 8 scenes look odd" in caplog.text
    assert "images/1.png: all 2048 pixels of its label are class 0" in caplog.text


def test_image_and_label_of_a_scene_are_both_named(tree):
    root, open_scenes = tree
    (root / "images" / "4.png").write_bytes(b"")
    (root / "masks" / "4.png").write_text("no mask")
    with pytest.raises(
        DataError, match=r"1 of 8 (.|\n)*images/4.png is empty\n(.|\n)*masks/4.png is"
    ):
        check(open_scenes())


def test_a_look_tells_what_a_scene_is_like(tree):
    root, open_scenes = tree
    scenes = open_scenes()
    seen = look(scenes, 3, with_labels=True)
    assert (seen.name, seen.size, seen.findings) == ("images/3.png", (32, 64), ())
    assert seen.counts.tolist() == [(scenes.label(3) == k).sum() for k in range(3)]
    assert look(scenes, 3, with_labels=False).counts is None
    # The same pixels in another form of file are the same picture.
    write(root / "images" / "3.bmp", scenes.image(3))
    (root / "images" / "3.png").unlink()
    assert look(open_scenes(), 3, with_labels=False).digest == seen.digest


def test_looks_come_in_order(tree):
    _, open_scenes = tree
    looks = look_at(open_scenes(), [5, 0, 7], with_labels=False)
    assert [seen.name for seen in looks] == ["images/5.png", "images/0.png", "images/7.png"]


@pytest.mark.parametrize("exact", [1, 64, 100, 1 << 24])
@pytest.mark.parametrize("size", [(32, 64), (1, 1), (7, 3)])
def test_classes_are_counted_exactly(monkeypatch, exact, size):
    monkeypatch.setattr(module, "EXACT", exact)
    label = np.random.default_rng(0).integers(4, size=size).astype(np.uint8)
    label[label == 3] = IGNORE
    expected = np.bincount(label.ravel(), minlength=256)[:3]
    counts = count_classes(label, 3)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(count_classes(label[:, ::-1], 3), expected)
    assert counts.dtype == np.int64


@pytest.mark.parametrize("reader", [read_image, read_label])
@pytest.mark.parametrize("bit", [0, 6])
def test_no_flipped_bit_of_png_pixels_goes_unseen(tmp_path, capfd, reader, bit):
    stored = picture(0) if reader is read_image else ids(0, 3)
    path = write(tmp_path / "a.png", stored)
    data = path.read_bytes()
    first, last = data.index(b"IDAT") + 4, data.index(b"IEND") - 4
    for place in range(first, last, max(1, (last - first) // 100)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"a\.png is truncated or damaged") as error:
            reader(path)
        assert (error.value.kind, error.value.path) == ("truncated or damaged", path)
