import os

import pytest
from make import ids, own_folder, picture, write
from PIL import Image as PILImage

from sfseg.data.layouts import folder
from sfseg.data.paths import Limits, PathList, Root, read_list
from sfseg.errors import DataError


def test_paths_are_kept_as_they_are(tmp_path):
    names = ["a.png", "b/c d.JPG", "größe/ü.png", "", "x" * 300, os.fsdecode(b"\xff\xfe.png")]
    paths = PathList(tmp_path, names)
    assert len(paths) == 6
    assert list(paths.names()) == names
    assert list(paths) == [tmp_path / name for name in names] == [paths[k] for k in range(6)]
    assert paths[-1] == paths[5] and paths.name(-6) == "a.png"
    for index in (6, -7):
        with pytest.raises(IndexError, match="below 6"):
            paths.name(index)


def test_lists_of_the_same_paths_are_equal(tmp_path):
    paths = PathList(tmp_path, ["a", "b"])
    assert paths == PathList(tmp_path, ["a", "b"])
    assert paths != PathList(tmp_path, ["ab"]) != ["ab"]
    assert PathList(tmp_path / "a", ["b"]) == PathList(tmp_path, ["a/b"])


@pytest.mark.parametrize("pixels", [0, -1, 10**9])
def test_a_limit_must_be_one_that_can_be_kept(pixels):
    with pytest.raises(ValueError, match=rf"max_pixels must be from 1 to 89478485.*got {pixels}"):
        Limits(max_pixels=pixels)


def test_the_largest_limit_is_that_of_pillow():
    assert Limits(PILImage.MAX_IMAGE_PIXELS).max_pixels == PILImage.MAX_IMAGE_PIXELS


@pytest.fixture
def tree(tmp_path):
    """A root with a folder beside it."""
    write(tmp_path / "outside" / "secret.png", picture(0))
    write(tmp_path / "root" / "images" / "a.png", picture(1))
    return tmp_path / "root"


def listed(root, **limits):
    return list(Root(root, Limits(**limits)).images(root))


@pytest.mark.parametrize("target", ["../../outside/secret.png", "/etc/hostname", "../../outside"])
def test_links_out_of_the_root_are_refused_and_named(tree, target):
    link = tree / "images" / "b.png"
    link.symlink_to(target)
    with pytest.raises(
        DataError, match=r"images/b\.png leads out of .*/root to .*; set data\.limits\.allow_links"
    ):
        listed(tree)
    link.unlink()
    assert listed(tree) == ["images/a.png"]


def test_links_out_of_the_root_may_be_allowed(tree):
    (tree / "images" / "b.png").symlink_to(tree.parent / "outside" / "secret.png")
    (tree / "images" / "c").symlink_to(tree.parent / "outside")
    assert listed(tree, allow_links=True) == [
        "images/a.png", "images/b.png", "images/c/secret.png",
    ]  # fmt: skip


def test_links_inside_the_root_and_the_root_itself_may_be_links(tree):
    (tree / "images" / "b.png").symlink_to("a.png")
    (tree / "copy").symlink_to(tree / "images")
    other = tree.parent / "link"
    other.symlink_to(tree)
    # The images lie in a folder with two names and are listed under the first.
    assert listed(other) == ["copy/a.png", "copy/b.png"]


def test_a_root_that_begins_like_another_is_another(tree):
    write(tree.parent / "root2" / "a.png", picture(0))
    (tree / "images" / "b.png").symlink_to(tree.parent / "root2" / "a.png")
    with pytest.raises(DataError, match="leads out of"):
        listed(tree)


def test_a_folder_linked_in_itself_is_read_once(tree):
    (tree / "images" / "again").symlink_to(tree / "images")
    assert listed(tree) == ["images/a.png"]


def test_order_is_that_of_paths_whatever_the_folder_returns(tree, monkeypatch):
    names = ["a/b.png", "a.png", "a-b/c.png", "Z.png", "a/a/x.png", "10.png", "9.png"]
    for name in names:
        write(tree / "sorted" / name, picture(0))
    scan = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(scan(path), key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    folder_ = tree / "sorted"
    found = [folder_ / n for n in Root(folder_, Limits()).images(folder_)]
    assert found == sorted(folder_ / name for name in names)


def test_a_link_that_appears_later_is_not_followed(tree):
    (tree / "classes.yaml").write_text("classes: [a, b]\n")
    files = folder(tree, classes=tree / "classes.yaml")
    path = files.images[0]
    path.unlink()
    path.symlink_to(tree.parent / "outside" / "secret.png")
    for read in (files.image, files.size):
        with pytest.raises(DataError, match=r"images/a\.png leads out of"):
            read(0)


def test_masks_may_not_lead_out_either(tree):
    (tree / "classes.yaml").write_text("classes: [a, b]\n")
    (tree / "masks").symlink_to(tree.parent / "outside")
    (tree.parent / "outside" / "secret.png").rename(tree.parent / "outside" / "a.png")
    files = folder(tree, classes=tree / "classes.yaml")
    with pytest.raises(DataError, match=r"masks/a\.png leads out of"):
        files.label(0)
    allowed = folder(tree, classes=tree / "classes.yaml", limits=Limits(allow_links=True))
    assert allowed.label_file(0).is_file()


def test_images_above_the_limit_are_not_decoded(tree):
    (tree / "classes.yaml").write_text("classes: [a, b]\n")
    size = 32 * 64
    assert folder(tree, classes=tree / "classes.yaml", limits=Limits(size)).image(0).shape
    files = folder(tree, classes=tree / "classes.yaml", limits=Limits(size - 1))
    for read in (files.image, files.size):
        with pytest.raises(DataError, match=r"64x32 pixels, more than the limit of 2047; .*limits"):
            read(0)


def file_list(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_lines_of_a_file_list(tmp_path):
    text = "# images\na.png\n\n  b.png   m/b.png \r\nwith blank.png\tm/with blank.png\nc.png\t\n"
    assert list(read_list(file_list(tmp_path, text), tmp_path)) == [
        ("a.png", None),
        ("b.png", "m/b.png"),
        ("with blank.png", "m/with blank.png"),
        ("c.png", None),
    ]


def test_a_list_of_a_windows_editor(tmp_path):
    text = b"\xef\xbb\xbfa, b.png m/a, b.png\r\nc.png\r\n"
    found = list(read_list(file_list(tmp_path, text), tmp_path))
    assert found == [("a, b.png", "m/a, b.png"), ("c.png", None)]


@pytest.mark.parametrize(
    "line",
    [
        "../../etc/passwd", "/etc/passwd", "a/../../b.png", "..", "a.png ../b.png", "a\\b.png",
        "C:\\a.png", "a\0b.png", "a.png /b.png", "a\x1b[2Jb.png", "a\u202eb.png",
    ],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_are_refused(tmp_path, line):
    with pytest.raises(DataError, match=r"list\.txt:2 must be a path below the root"):
        list(read_list(file_list(tmp_path, f"fine.png\n{line}\n"), tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c", r"list\.txt:1 must name an image and at most one mask, got 'a b c'"),
        ("a.png,m/a.png", r"list\.txt:1 must separate names by a tab or blanks, not by commas"),
        ("a.JPG; m/a.png", r"list\.txt:1 must separate names by a tab or blanks, not by commas"),
        (b"\xff\xfe", r"list\.txt cannot be read: 'utf-8'"),
    ],
)
def test_other_broken_lists(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        list(read_list(file_list(tmp_path, text), tmp_path))


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the file list .*none\.txt cannot be read: .*No such"):
        list(read_list(tmp_path / "none.txt", tmp_path))


def test_a_folder_by_its_list(tmp_path):
    classes = own_folder(tmp_path)
    (tmp_path / "train.txt").write_text(
        "images/train/2.png\nimages/val/0.png masks/val/1.png\nimages/train/2.png\n"
    )
    files = folder(tmp_path, "train", classes=classes, file_list="{split}.txt")
    assert [files.name(k) for k in range(3)] == [
        "images/train/2.png", "images/val/0.png", "images/train/2.png",
    ]  # fmt: skip
    masks = [files.label_file(k).relative_to(tmp_path).as_posix() for k in range(3)]
    assert masks == ["masks/train/2.png", "masks/val/1.png", "masks/train/2.png"]


@pytest.mark.parametrize("name", ["train/a.png", "images/train/a.png"])
def test_masks_that_a_list_does_not_name_are_found_by_the_images_name(tmp_path, name):
    (tmp_path / "classes.yaml").write_text("classes: [a, b]\n")
    write(tmp_path / name, picture(0))
    mask = write(tmp_path / "masks" / "train" / "a.png", ids(0, 2))
    (tmp_path / "all.txt").write_text(f"{name}\n")
    files = folder(tmp_path, classes=tmp_path / "classes.yaml", file_list="all.txt")
    assert files.has_labels and files.label_file(0) == mask and not files.unpaired


def test_a_list_that_names_some_masks_lacks_the_others(tmp_path):
    classes = own_folder(tmp_path, masks=False)
    write(tmp_path / "m.png", ids(0, 3))
    (tmp_path / "all.txt").write_text("images/train/0.png m.png\nimages/train/1.png\n")
    files = folder(tmp_path, classes=classes, file_list="all.txt")
    assert files.has_labels and files.unpaired == [1]


def test_a_list_of_images_alone_is_unlabelled(tmp_path):
    classes = own_folder(tmp_path, masks=False)
    (tmp_path / "all.txt").write_text("images/train/2.png\n")
    assert not folder(tmp_path, classes=classes, file_list="all.txt").has_labels
