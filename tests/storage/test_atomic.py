import pytest

from sfseg.storage.atomic import remove_partial, write_whole


def test_a_file_appears_with_its_folder(tmp_path):
    path = tmp_path / "new" / "a.bin"
    write_whole(path, lambda file: file.write(b"abc"))
    assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "a.bin"

    def outer(file):
        write_whole(path, lambda inner: inner.write(b"inner"))
        assert path.read_bytes() == b"inner"
        file.write(b"outer")

    write_whole(path, outer)
    assert path.read_bytes() == b"outer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="a"):
        write_whole(tmp_path / "a" / "b.bin", lambda file: file.write(b""))


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / "a.txt", tmp_path / "b" / ".hidden", tmp_path / "b" / "x.partial"]
    left = [tmp_path / "b" / ".c.0.partial", tmp_path / ".d.partial" / "inside"]
    for path in (*kept, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_partial(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
