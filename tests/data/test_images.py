import struct
import zlib

import cv2
import numpy as np
import pytest
from make import ids, picture, truncations, write
from PIL import Image

from sfseg.data.headers import MAX_PIXELS, image_size
from sfseg.data.images import read_image, read_label
from sfseg.data.paths import list_images
from sfseg.errors import DataError
from sfseg.report.drawing import write_png

LOSSLESS = [".png", ".bmp", ".tif", ".PNG"]
READERS = [image_size, read_image, read_label]


@pytest.fixture
def decoded(monkeypatch):
    """Names of the decoders that were called."""
    calls = []
    for owner, name in ((cv2, "imdecode"), (Image.Image, "load")):
        original = getattr(owner, name)

        def record(*arguments, _name=name, _original=original, **options):
            calls.append(_name)
            return _original(*arguments, **options)

        monkeypatch.setattr(owner, name, record)
    return calls


def header(height, width):
    """A PNG that claims a size and holds no pixel."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("size", [(32, 64), (1, 1), (7, 3)])
def test_images_are_read_as_rgb(tmp_path, suffix, size):
    pixels = picture(0, size)
    path = write(tmp_path / f"a{suffix}", pixels)
    assert image_size(path) == size
    found = read_image(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_images_are_close_to_what_pil_reads(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", picture(0))
    found = read_image(path).astype(int)
    assert np.abs(found - np.asarray(Image.open(path).convert("RGB"))).max() <= 4
    assert np.abs(found - picture(0)).mean() < 10


def test_grey_alpha_palette_and_16_bit_images_become_rgb(tmp_path):
    pixels = picture(0)
    grey = np.ascontiguousarray(pixels[..., 0])
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path / "grey.png", grey)), expected)
    deep = write(tmp_path / "deep.png", grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(deep), expected)
    alpha = np.dstack([pixels, np.full_like(grey, 3)])
    np.testing.assert_array_equal(read_image(write(tmp_path / "alpha.png", alpha)), pixels)
    indexed = write(tmp_path / "palette.png", ids(0, 5), mode="P")
    np.testing.assert_array_equal(
        read_image(indexed), np.asarray(Image.open(indexed).convert("RGB"))
    )


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("num_classes", [2, 19, 253])
def test_grey_labels_are_ids(tmp_path, suffix, num_classes):
    label = ids(0, num_classes)
    np.testing.assert_array_equal(read_label(write(tmp_path / f"a{suffix}", label)), label)


def test_palette_labels_are_ids_not_colours(tmp_path):
    label = ids(0, 19)
    path = write(tmp_path / "a.png", label, mode="P")
    assert cv2.imread(str(path)).shape == (*label.shape, 3), "what the reader has to avoid"
    np.testing.assert_array_equal(read_label(path), label)


def test_palette_labels_with_transparency_and_few_bits(tmp_path):
    label = ids(0, 3, void=3)
    stored = Image.fromarray(label)
    stored = stored.convert("P")
    stored.putpalette([0, 0, 0, 9, 9, 9, 200, 1, 1, 5, 5, 5])
    stored.save(tmp_path / "a.png", bits=2, transparency=0)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), label)


def test_16_bit_rgb_labels_keep_their_low_bytes(tmp_path):
    """SYNTHIA: the class is the red channel, the instance green, of 16 bits each."""
    red = ids(0, 23).astype(np.uint16)
    rgb = np.dstack([red, red * 3 + 700, np.zeros_like(red)])
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    found = read_label(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, rgb)


def test_16_bit_grey_labels_keep_large_ids(tmp_path):
    label = np.array([[0, 255, 256, 26001]], np.uint16)
    np.testing.assert_array_equal(read_label(write(tmp_path / "a.png", label)), label)


def test_colour_masks_are_rgb_and_alpha_is_dropped(tmp_path):
    pixels = picture(0)
    np.testing.assert_array_equal(read_label(write(tmp_path / "a.png", pixels)), pixels)
    alpha = np.dstack([pixels, pixels[..., 0]])
    np.testing.assert_array_equal(read_label(write(tmp_path / "b.png", alpha)), pixels)


def test_grey_labels_with_alpha_are_ids(tmp_path):
    label = ids(0, 3)
    path = write(tmp_path / "a.png", np.dstack([label, np.full_like(label, 255)]))
    np.testing.assert_array_equal(read_label(path), label)


@pytest.mark.parametrize("reader", [read_image, read_label])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_truncated_files_are_refused(tmp_path, capfd, reader, suffix):
    path = write(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(
        256, size=(32, 64, 3)).astype(np.uint8))  # fmt: skip
    for data in truncations(path):
        path.write_bytes(data)
        with pytest.raises(DataError, match=str(path)):
            reader(path)


@pytest.mark.parametrize("reader", [read_image, read_label])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_damaged_png_is_refused(tmp_path, capfd, reader, place):
    pixels = np.random.default_rng(0).integers(256, size=(32, 64, 3)).astype(np.uint8)
    path = write(tmp_path / "a.png", pixels)
    data = bytearray(path.read_bytes())
    start = int(len(data) * place)
    data[start : start + 40] = bytes(255 - b for b in data[start : start + 40])
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png is truncated or damaged"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"road car sky\n" * 9, "is no readable image"),
        (b"\x89PNG\r\n\x1a\n", "is no readable image"),
        (b"\xff\xd8\xff\xe0", "is no readable image"),
    ],
)
def test_files_that_are_no_image_are_refused(tmp_path, reader, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} {message}"):
        reader(path)


@pytest.mark.parametrize("reader", [read_image, read_label])
def test_an_empty_file_is_refused(tmp_path, reader):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png is empty"):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize("reader", READERS)
def test_missing_files_and_folders_are_refused(tmp_path, reader):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"none\.png .*No such file"):
        reader(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"folder\.png is no regular file"):
        reader(tmp_path / "folder.png")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("size", [(8193, 8192), (1 << 20, 1 << 20), (1, (1 << 26) + 1)])
def test_a_huge_image_is_refused_by_its_header(tmp_path, decoded, reader, size):
    path = tmp_path / "a.png"
    path.write_bytes(header(*size))
    with pytest.raises(DataError, match=r"a\.png (has \d+x\d+ pixels, more than|is no readable)"):
        reader(path)
    assert not decoded


def test_an_image_that_pil_warns_of_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(header(10000, 10000))
    with pytest.raises(DataError, match=r"a\.png.*limit"):
        image_size(path)


def test_the_size_needs_no_decoding(tmp_path, decoded):
    path = write(tmp_path / "a.png", picture(0))
    decoded.clear()
    assert image_size(path) == (32, 64)
    assert image_size(path, path.read_bytes()) == (32, 64)
    assert not decoded


def test_the_largest_image_is_not_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(header(8192, 8192))
    assert MAX_PIXELS == 8192 * 8192
    assert image_size(path) == (8192, 8192)


def test_the_size_is_that_of_the_decoded_photo(tmp_path):
    path = tmp_path / "a.jpg"
    photo = Image.fromarray(picture(0))
    exif = photo.getexif()
    exif[0x0112] = 6  # a camera held upright
    photo.save(path, exif=exif)
    assert image_size(path) == read_image(path).shape[:2]


@pytest.mark.parametrize(
    "pixels", [picture(0), ids(0, 19), picture(0)[:, ::-1], picture(0, (1, 1))]
)
def test_written_pixels_read_back(tmp_path, pixels):
    path = tmp_path / "new" / "a.png"
    write_png(path, pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_writing_replaces_the_file_whole(tmp_path):
    path = write(tmp_path / "a.png", picture(0))
    write_png(path, ids(1, 3))
    np.testing.assert_array_equal(read_label(path), ids(1, 3))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", ids(0, 3))

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(DataError, match=r"a\.png cannot be written: disk full"):
        write_png(path, ids(1, 3))
    np.testing.assert_array_equal(read_label(path), ids(0, 3))
    assert list_images(tmp_path) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/a\.png cannot be written"):
        write_png(tmp_path / "file" / "a.png", ids(0, 3))


def test_images_are_listed_by_path_at_any_depth(tmp_path):
    names = ["b.png", "a/2.JPG", "a/10.jpeg", "a/b/c.tif", "z.webp"]
    for name in [*names, "notes.txt", "a/.hidden.png", "a/._b.png", "Thumbs.db"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == sorted(tmp_path / name for name in names)


@pytest.mark.parametrize("name", [".ipynb_checkpoints/a.png", "folder.png/notes.txt"])
def test_only_visible_files_are_listed(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    assert list_images(tmp_path) == []


def test_linked_files_are_listed_and_linked_folders(tmp_path):
    store = write(tmp_path / "store" / "a.png", picture(0))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "linked.png").symlink_to(store)
    assert list_images(folder) == [folder / "linked.png"]


def test_linked_folders_are_listed(tmp_path):
    write(tmp_path / "store" / "a.png", picture(0))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "city").symlink_to(tmp_path / "store")
    assert list_images(folder) == [folder / "city" / "a.png"]
