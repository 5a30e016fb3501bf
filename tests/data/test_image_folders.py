"""Images of several folders and lists as one set: which, in which order, under which names."""

import pickle
from pathlib import Path

import make
import numpy as np
import pytest

from sfseg.data.cache import CacheSettings
from sfseg.data.fingerprint import fingerprint, image_digests
from sfseg.data.geometry import View
from sfseg.data.image_folders import ImageFolders, distinct_names, image_folders
from sfseg.data.paths import Limits
from sfseg.data.shots import Shots
from sfseg.errors import DataError


def fill(folder, *names, seed=0):
    for k, name in enumerate(names):
        make.write(folder / name, make.picture(seed + k))
    return folder


def read(*places, limits=None, **settings):
    found = image_folders(
        [str(place) for place in places], make.space(), "data.target_folders",
        limits=limits or Limits(), **settings,
    )  # fmt: skip
    assert not found.has_labels
    return found


def names(scenes):
    return [scenes.name(k) for k in range(len(scenes))]


def test_one_folder_names_its_images_as_it_does(tmp_path):
    fill(tmp_path / "a", "b/2.png", "1.png", "10.jpg")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    assert names(read(tmp_path / "a")) == ["1.png", "10.jpg", "b/2.png"]


def test_equal_names_of_two_folders_stay_apart(tmp_path):
    fill(tmp_path / "rio", "0.png", "1.png")
    fill(tmp_path / "rome", "0.png", "1.png", seed=50)
    scenes = read(tmp_path / "rome", tmp_path / "rio")
    assert names(scenes) == ["rome/0.png", "rome/1.png", "rio/0.png", "rio/1.png"], "as given"
    for k, seed in enumerate((50, 51, 0, 1)):
        np.testing.assert_array_equal(scenes.image(k), make.picture(seed))
        assert scenes.size(k) == make.SIZE
    assert len(np.unique(image_digests(scenes))) == 4
    again = pickle.loads(pickle.dumps(scenes))
    assert names(again) == names(scenes) and again.image_file(2) == tmp_path / "rio" / "0.png"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/x/a"], [""]),
        (["/x/a", "/y/b"], ["a", "b"]),
        (["/x/Rio/Train", "/y/Rome/Train"], ["Rio/Train", "Rome/Train"]),
        (["/x/a", "/y/a", "/y/b"], ["x/a", "y/a", "y/b"]),
        (["/a", "/x/a/b", "/y/b"], ["a", "x/a/b", "y/b"]),
        (["/", "/b"], ["", "b"]),
    ],
)
def test_folders_are_named_by_as_little_as_tells_them_apart(paths, expected):
    assert distinct_names([Path(path) for path in paths]) == expected


def test_a_folder_that_moves_keeps_its_names(tmp_path):
    for part in ("a", "b"):
        fill(tmp_path / "before" / part, "0.png")
    before = names(read(*(tmp_path / "before" / part for part in "ab")))
    (tmp_path / "before").rename(tmp_path / "after")
    assert names(read(*(tmp_path / "after" / part for part in "ab"))) == before


def test_lists_name_images_below_their_own_folder(tmp_path):
    fill(tmp_path / "frames", "rio/a.png", "rio/b.png", "rome/a.png")
    fill(tmp_path / "more", "c.png")
    (tmp_path / "frames" / "rio.txt").write_text("rio/b.png\n# none\nrio/a.png masks/a.png\n")
    (tmp_path / "frames" / "rome.txt").write_text(f"{tmp_path}/frames/rome/a.png\n")
    places = [tmp_path / "frames" / "rio.txt", tmp_path / "more", tmp_path / "frames" / "rome.txt"]
    assert names(read(*places)) == [
        "frames/rio/b.png", "frames/rio/a.png", "more/c.png", "frames/rome/a.png",
    ]  # fmt: skip


def test_what_it_is_changes_with_what_it_holds(tmp_path):
    for part in ("a", "b"):
        fill(tmp_path / part, "0.png")
    places = [tmp_path / "a", tmp_path / "b"]
    before = fingerprint(read(*places)), image_digests(read(*places)).tolist()
    assert fingerprint(read(*places)) == before[0]
    assert fingerprint(read(*reversed(places))) != before[0]
    make.write(tmp_path / "b" / "0.png", make.picture(9))
    assert fingerprint(read(*places)) != before[0]
    changed = image_digests(read(*places)).tolist()
    assert changed[0] == before[1][0] and changed[1] != before[1][1]


def test_some_of_them_are_a_set_like_others(tmp_path):
    for part in ("a", "b"):
        fill(tmp_path / part, "0.png", "1.png", seed=ord(part))
    few = Shots(names=["b/0.png"]).of(read(tmp_path / "a", tmp_path / "b"))
    assert isinstance(few, ImageFolders) and names(few) == ["b/0.png"]
    kept = CacheSettings("memmap", str(tmp_path / "cache"))
    cache = kept.open(few, View(crop=(8, 8)), with_labels=False)
    np.testing.assert_array_equal(cache(0).image, make.picture(ord("b")))


def test_what_cannot_be_read_is_named(tmp_path):
    fill(tmp_path / "a", "0.png", "in/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n")
    for places, message in (
        (["a", "nowhere"], r"data\.target_folders names .*nowhere, which does not exist"),
        (["a", "empty"], r"data\.target_folders names .*empty, which holds no images"),
        (["none.txt"], r"names .*none\.txt, which lists no images"),
        (["a", "a"], r"names .*a/0\.png twice; its folders must not lie in each other"),
        (["a", "a/in"], r"names .*a/in/1\.png twice"),
    ):
        with pytest.raises(DataError, match=message):
            read(*(tmp_path / place for place in places))


def test_links_out_of_a_folder_are_refused_also_into_another_one(tmp_path):
    fill(tmp_path / "a", "0.png")
    fill(tmp_path / "b", "1.png")
    (tmp_path / "b" / "link.png").symlink_to(tmp_path / "a" / "0.png")
    with pytest.raises(DataError, match="leads out of"):
        read(tmp_path / "a", tmp_path / "b")
    found = read(tmp_path / "a", tmp_path / "b", limits=Limits(allow_links=True))
    assert len(found) == 3
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert names(read(tmp_path / "link")) == ["0.png"], "the folder itself may be a link"


def test_values_become_bytes_as_set(tmp_path):
    fill(tmp_path / "a", "0.png")
    dull = read(tmp_path / "a", value_range=[0, 510]).image(0).astype(int)
    assert abs(dull - make.picture(0) // 2).max() <= 1
