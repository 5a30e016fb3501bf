"""Digests of images: of what is in them, wherever and whenever they were written."""

import os
import shutil

import cv2
import numpy as np
import pytest
from make import Memory, own_folder, picture, write

from sfseg.data.fingerprint import PART, image_digests
from sfseg.data.layouts import folder


def opened(root):
    return folder(root, classes=root / "classes.yaml")


@pytest.fixture
def root(tmp_path):
    own_folder(tmp_path / "data", splits=["."], count=4)
    return tmp_path / "data"


def test_each_image_has_its_own_and_a_copy_has_the_same(root):
    found = image_digests(opened(root))
    assert len(set(found.tolist())) == 4 and found.all()
    copied = shutil.copytree(root, root.with_name("copy"), copy_function=shutil.copyfile)
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    np.testing.assert_array_equal(image_digests(opened(copied)), found)


def test_another_image_of_the_same_name_is_told(root):
    before = image_digests(opened(root))
    write(root / "images" / "1.png", picture(99))
    assert (image_digests(opened(root)) != before).tolist() == [False, True, False, False]


@pytest.mark.parametrize("where", [0, 1, 2])
def test_it_is_told_by_its_beginning_its_middle_and_its_end(root, where):
    path = root / "images" / "2.png"
    content = bytearray(8 * PART)
    path.write_bytes(content)
    before = image_digests(opened(root))
    content[where * (8 * PART - 1) // 2] = 1
    path.write_bytes(content)
    assert (image_digests(opened(root)) != before).tolist() == [False, False, True, False]
    path.write_bytes(bytes(8 * PART + 1))
    assert image_digests(opened(root))[2] != before[2]


def test_labels_are_no_part_of_it(root):
    before = image_digests(opened(root))
    mask = root / "masks" / "1.png"
    cv2.imwrite(str(mask), 1 - cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).clip(0, 1))
    np.testing.assert_array_equal(image_digests(opened(root)), before)


def test_what_is_left_out_or_gone_has_none(root):
    files = opened(root)
    (root / "images" / "3.png").unlink()
    assert (image_digests(files, left_out=[1]) == 0).tolist() == [False, True, False, True]


def test_drawn_sets_have_none():
    assert image_digests(Memory([picture(0)], None)) is None
