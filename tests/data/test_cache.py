import logging
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import yaml
from make import Memory, ids, own_folder, picture, write

from sfseg.data import cache as cache_module
from sfseg.data.cache import Cache, CacheSettings
from sfseg.data.folder import FolderDataset
from sfseg.data.geometry import EvalView, View
from sfseg.data.layouts import folder
from sfseg.errors import ConfigError, DataError

VIEWS = {
    "resized": View((24, 40), resize=(36, 70), max_share=0.4),
    "fixed factor": View((24, 40), ratio=(1.5, 1.5)),
    "random factor": View((24, 40), resize=(36, 70), ratio=(0.5, 2.0)),
    "own size": View((24, 40)),
    "whole": EvalView(),
    "whole, resized": EvalView((16, 48)),
    "whole, both resized": EvalView(20, (10, 30)),
}


@pytest.fixture
def tree(tmp_path):
    """Six scenes, two of another size."""
    own_folder(tmp_path / "data", splits=["."], count=4)
    for k, size in ((7, (48, 60)), (8, (31, 17))):
        write(tmp_path / "data" / "images" / f"{k}.png", picture(k, size))
        write(tmp_path / "data" / "masks" / f"{k}.png", ids(k, 3, size))
    return tmp_path


def opened(tree, **options):
    return folder(tree / "data", classes=tree / "data" / "classes.yaml", **options)


def made(tree, view, with_labels=True, files=None):
    return Cache(files or opened(tree), tree / "cache", view, with_labels)


def pictures(tree):
    return sorted(p for p in (tree / "cache").rglob("*") if p.is_file())


def samples(files, view, read=None, use_labels=True):
    dataset = FolderDataset(files, view=view, read=read, use_labels=use_labels)
    return [dataset[number, k] for number in range(3) for k in range(len(files))]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert a["index"] == b["index"]
        for key in ("image", "label", "geometry"):
            assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_samples_are_those_of_the_files(tree, view, with_labels):
    files = opened(tree)
    plain = samples(files, view, use_labels=with_labels)
    read = made(tree, view, with_labels)
    assert_equal(plain, samples(files, view, read, with_labels))
    assert len(pictures(tree)) == 6 * (1 + with_labels)
    # From the disk alone, as another process would.
    again = made(tree, view, with_labels)
    assert_equal(plain, samples(files, view, again, with_labels))
    assert len(pictures(tree)) == 6 * (1 + with_labels)


def test_a_known_scene_is_not_decoded_again(tree, monkeypatch):
    read = made(tree, VIEWS["resized"])
    first = read(0)

    def refuse(*arguments):
        raise AssertionError("decoded again")

    for name in ("read_bytes", "image_size"):
        monkeypatch.setattr(cache_module, name, refuse)
    second = read(0)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    assert first.full == second.full


def test_another_content_is_another_picture_whatever_its_time(tree):
    read = made(tree, VIEWS["own size"])
    path = tree / "data" / "images" / "0.png"
    before, times = read(0).image.copy(), path.stat()
    write(path, picture(99))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = made(tree, VIEWS["own size"])(0).image
    np.testing.assert_array_equal(after, picture(99))
    assert not np.array_equal(before, after)


def test_copies_share_a_picture_and_other_settings_do_not(tree):
    shutil.copy(tree / "data" / "images" / "0.png", tree / "data" / "images" / "1.png")
    read = made(tree, VIEWS["resized"], with_labels=False)
    for index in (0, 1):
        read(index)
    assert len(pictures(tree)) == 1
    made(tree, VIEWS["whole, resized"], with_labels=False)(0)
    assert len(pictures(tree)) == 2


@pytest.mark.parametrize("with_labels", [False, True])
def test_each_size_is_a_picture_of_its_own(tree, with_labels):
    """Of the same files, in one cache: none is served in the size of another."""
    full = opened(tree).size(0)
    views = [EvalView((16, 48)), EvalView((48, 16), (10, 30)), EvalView((8, 96), (5, 15))]
    for view in [*views, EvalView(), *views]:
        picture = made(tree, view, with_labels)(0)
        assert picture.image.shape[:2] == (view.size or full)
        assert not with_labels or picture.label.shape == (view.label_size or full)
    assert len(pictures(tree)) == 4 + 3 * with_labels


def test_a_label_belongs_to_the_size_of_its_image(tree):
    """One of another size is refused, though a label of the same bytes is kept already."""
    view = EvalView(20, (10, 30))
    made(tree, view)(0)
    write(tree / "data" / "images" / "0.png", picture(0, (20, 90)))
    with pytest.raises(DataError, match="90x20"):
        made(tree, view)(0)


def test_another_library_makes_its_own_pictures(tree, monkeypatch):
    for _ in range(2):
        made(tree, VIEWS["resized"])(0)
    assert len(pictures(tree)) == 2
    monkeypatch.setattr(cache_module.cv2, "__version__", "99.0")
    made(tree, VIEWS["resized"])(0)
    assert len(pictures(tree)) == 4


def test_labels_under_other_tables_are_others(tree):
    made(tree, VIEWS["own size"])(0)
    (tree / "data" / "classes.yaml").write_text(
        "classes: [a, b, c]\nvalues: [2, 1, 0]\n", encoding="utf-8"
    )
    files = opened(tree)
    found = made(tree, VIEWS["own size"], files=files)(0).label
    np.testing.assert_array_equal(found, files.label(0))
    assert len(pictures(tree)) == 3  # one image, two labels


@pytest.mark.parametrize(
    "settings",
    [{"nearest": True}, {"nearest": 20}, {"ignore": [[1, 2, 3]]}, {"channel": "red"},
     {"map": {"a": None}}, {"map": {"b": "a"}}, {"palette": None}],
    ids=str,
)  # fmt: skip
def test_labels_under_other_rules_are_others(tree, settings):
    def labelled(**settings):
        known = {"classes": ["a", "b", "c"], "palette": [[9, 0, 0], [0, 9, 0], [0, 0, 9]]}
        (tree / "data" / "classes.yaml").write_text(yaml.safe_dump(known | settings))
        made(tree, VIEWS["own size"], files=opened(tree))(0)
        return len(pictures(tree))

    assert (labelled(), labelled(), labelled(**settings)) == (2, 2, 3)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "objects"])
def test_a_damaged_picture_is_made_again(tree, damage):
    view = VIEWS["resized"]
    plain = samples(opened(tree), view)
    samples(opened(tree), view, made(tree, view))
    for path in pictures(tree):
        if damage == "objects":
            np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        else:
            content = {"truncated": path.read_bytes()[:-10], "text": b"hello", "empty": b""}
            path.write_bytes(content[damage])
    assert_equal(plain, samples(opened(tree), view, made(tree, view)))
    assert all(np.load(path).dtype == np.uint8 for path in pictures(tree))


def test_a_picture_that_vanishes_is_made_again(tree):
    read = made(tree, VIEWS["resized"])
    before = read(0).image.copy()
    shutil.rmtree(tree / "cache")
    np.testing.assert_array_equal(read(0).image, before)


def read_all(tree, seed):
    read = made(tree, VIEWS["resized"])
    order = np.random.default_rng(seed).permutation(6)
    return [(int(k), read(int(k)).image.sum(), read(int(k)).label.sum()) for k in order]


def test_several_processes_may_fill_it(tree):
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        found = list(pool.map(read_all, [tree] * 8, range(8)))
    assert len({frozenset(entries) for entries in found}) == 1
    assert len(pictures(tree)) == 12 and all(p.suffix == ".npy" for p in pictures(tree))


def test_two_caches_may_write_the_same_picture_at_once(tree, monkeypatch):
    first, second = made(tree, VIEWS["resized"]), made(tree, VIEWS["resized"])
    save, nested = np.save, []

    def save_twice(file, pixels, **options):
        if not nested:
            nested.append(None)
            nested[0] = second(0)
        save(file, pixels, **options)

    monkeypatch.setattr(np, "save", save_twice)
    np.testing.assert_array_equal(first(0).image, nested[0].image)
    assert not first._broken and not second._broken
    assert len(pictures(tree)) == 2


def test_a_full_disk_costs_the_speed_only(tree, monkeypatch, caplog):
    plain = samples(opened(tree), VIEWS["resized"])

    def fail(file, *arguments, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with caplog.at_level(logging.WARNING):
        assert_equal(plain, samples(opened(tree), VIEWS["resized"], made(tree, VIEWS["resized"])))
    assert pictures(tree) == []
    assert [r.getMessage() for r in caplog.records] == [
        "the cache takes no more pictures, they are decoded each time: "
        "[Errno 28] No space left on device"
    ]


def test_a_folder_that_is_a_file_costs_the_speed_only(tree, caplog):
    (tree / "cache").write_text("")
    plain = samples(opened(tree), VIEWS["whole"])
    assert_equal(plain, samples(opened(tree), VIEWS["whole"], made(tree, VIEWS["whole"])))
    assert "the cache takes no more pictures" in caplog.text


def test_faults_of_the_files_come_through(tree):
    write(tree / "data" / "masks" / "0.png", ids(0, 3, (8, 8)))
    write(tree / "data" / "masks" / "1.png", np.full((32, 64), 7, np.uint8))
    read = made(tree, VIEWS["resized"])
    with pytest.raises(DataError, match=r"images/0\.png: the image has 64x32 pixels .*, its"):
        read(0)
    with pytest.raises(DataError, match=r"masks/1\.png has 2048 pixels with ids"):
        read(1)


@pytest.mark.parametrize(("free", "warnings"), [(1 << 30, 0), (10, 1)])
def test_its_size_is_announced(tree, monkeypatch, caplog, free, warnings):
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    with caplog.at_level(logging.INFO):
        made(tree, View((512, 512), resize=(512, 1024))).announce("target train")
    announced = f"{6 * 4 * 512 * 1024 / 2**30:.2f} GiB"
    assert f"cache of the target train set: 6 scenes, up to {announced} in" in caplog.text
    assert caplog.text.count("may not fit") == warnings


def test_settings(tree):
    view = VIEWS["whole"]
    assert CacheSettings("none", "nowhere").open(opened(tree), view, with_labels=True) is None
    cache = CacheSettings("memmap", str(tree)).open(opened(tree), view, with_labels=True)
    assert cache is not None and cache.folder == tree / "pictures"
    with pytest.raises(ConfigError, match=r"data\.cache=memmap needs images in files, got Memory"):
        CacheSettings("memmap", str(tree)).open(Memory([]), view, with_labels=False)
    with pytest.raises(ValueError, match=r"data\.cache must be memmap or none, got 'ram'"):
        CacheSettings("ram", str(tree))
