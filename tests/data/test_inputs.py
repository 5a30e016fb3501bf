import logging

import pytest
from make import picture, write

from sfseg.data.inputs import find_inputs
from sfseg.errors import DataError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of images in two depths, with other files among them."""
    monkeypatch.chdir(tmp_path)
    for name in ("2024/a.jpg", "2024/b.png", "2024/deep/c.png", "one.tif"):
        write(tmp_path / name, picture(0))
    (tmp_path / "2024/notes.txt").touch()
    (tmp_path / "2024/d.heic").touch()
    return tmp_path


def names(*sources, own=()):
    return [str(one.name) for one in find_inputs(sources, own)]


def test_folders_keep_their_sub_folders(photos):
    assert names("2024") == ["a.png", "b.png", "deep/c.png"]
    assert names(str(photos)) == ["2024/a.png", "2024/b.png", "2024/deep/c.png", "one.png"]


def test_a_file_is_its_name(photos):
    (one,) = find_inputs(["2024/deep/c.png"])
    assert str(one.name) == "c.png" and one.path.is_file()
    (photos / "strange").write_bytes(b"whatever it is")
    assert names("strange") == ["strange.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("2024/*.png", ["b.png"]),
        ("2024/[ab].*", ["a.png", "b.png"]),
        ("2024/**/*.png", ["b.png", "deep/c.png"]),
        ("20*", ["2024/a.png", "2024/b.png", "2024/deep/c.png"]),
        ("*/**", ["2024/a.png", "2024/b.png", "2024/deep/c.png"]),
        ("*.tif", ["one.png"]),
    ],
)
def test_a_pattern_keeps_what_its_wildcards_stand_for(photos, pattern, expected):
    assert sorted(names(pattern)) == expected
    assert sorted(names(str(photos / pattern))) == expected


def test_a_name_that_looks_like_a_pattern_is_a_name(photos):
    write(photos / "[ab]" / "x*.png", picture(0))
    assert names("[ab]") == ["x*.png"] and names("[ab]/x*.png") == ["x*.png"]


def test_several_sources_are_joined(photos):
    assert names("one.tif", "2024/deep") == ["one.png", "c.png"]
    assert names("2024", "2024/*.jpg") == ["a.png", "b.png", "deep/c.png"]


def test_outputs_of_one_name_are_refused(photos):
    write(photos / "other" / "c.png", picture(1))
    with pytest.raises(DataError, match=r"c\.png and other/c\.png would both be written as c\.png"):
        names("2024/deep", "other")


@pytest.mark.parametrize("source", ["nowhere", "2024/none.png"])
def test_what_is_not_there_is_named(photos, source):
    with pytest.raises(DataError, match=f"images={source} does not exist"):
        names("one.tif", source)


@pytest.mark.parametrize("source", ["empty", "2024/*.gif", "2024/*.txt"])
def test_nothing_to_predict_is_refused(photos, source):
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image files"):
        names(source)


def test_what_was_written_before_is_not_read_again(photos, caplog):
    write(photos / "2024/out/labels/a.png", picture(2))
    write(photos / "2024/out/mine.png", picture(2))
    with caplog.at_level(logging.INFO):
        found = names("2024", own=[photos / "2024/out/labels"])
    assert found == ["a.png", "b.png", "deep/c.png", "out/mine.png"]
    assert "files below the output, which are not read: 1" in caplog.text


def test_passed_over_files_are_counted(photos, caplog):
    with caplog.at_level(logging.INFO):
        names("2024")
        names("2024/*")
    assert caplog.text.count("3 images: .jpg 1, .png 2") == 2
    assert caplog.text.count("2 files passed over: .heic 1, .txt 1") == 2
