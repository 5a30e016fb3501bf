"""Images that are not what they seem: turned, of four bands, of 16 bits, of other samples."""

import logging

import numpy as np
import pytest
from make import ids, own_folder, picture, write
from PIL import Image, ImageOps
from tiffs import GREY, RGB, samples, write_tiff

from sfseg.data.cache import Cache
from sfseg.data.check import check_scenes, look_at
from sfseg.data.fingerprint import fingerprint
from sfseg.data.folder import FolderDataset, label_of
from sfseg.data.geometry import EvalView
from sfseg.data.headers import read_header
from sfseg.data.images import read_image, read_label, value_range_of
from sfseg.data.layouts import folder
from sfseg.data.odd_pictures import remarks
from sfseg.data.report import Report
from sfseg.errors import DataError

ALL = range(1, 9)


def tagged(path, pixels, orientation, **options):
    """Store pixels with an orientation tag."""
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def turned(root, orientation, masks_too=False, size=(32, 64)):
    """A data set whose photos are stored lying, and are shown as the masks are."""
    own_folder(root, splits=["."], count=3)
    for path in sorted((root / "images").glob("*.png")):
        upright = np.asarray(Image.open(path).resize(size[::-1]))
        mask = root / "masks" / path.name
        write(mask, np.asarray(Image.open(mask).resize(size[::-1], Image.Resampling.NEAREST)))
        path.unlink()
        back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
        stored = Image.fromarray(upright)
        turn = Image.Exif()
        turn[274] = back
        stored.info["exif"] = turn.tobytes()
        stored = ImageOps.exif_transpose(stored)
        tagged(path.with_suffix(".png"), np.asarray(stored), orientation)
    return root


def opened(root, **options):
    return folder(root, classes=root / "classes.yaml", **options)


def said(root, **options):
    """Kinds of what is said of a set's pictures, and the texts."""
    files = opened(root, **options)
    looks = look_at(files, range(len(files)), with_labels=False)
    return dict(remarks([look.facts for look in looks]))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", ALL)
def test_photos_are_shown_as_viewers_show_them(tmp_path, suffix, orientation):
    pixels = picture(0, (20, 30))
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        write_tiff(path, pixels, orientation=orientation)
    else:
        tagged(path, pixels, orientation, quality=100)
    with Image.open(path) as photo:
        expected = np.asarray(ImageOps.exif_transpose(photo).convert("RGB")).astype(int)
    found, header = read_image(path), read_header(path)
    assert header.size == found.shape[:2] == expected.shape[:2]
    assert header.orientation == orientation and np.abs(found - expected).max() <= 4


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("orientation", ALL)
def test_deep_tiff_files_are_turned_too(tmp_path, bands, orientation):
    stored = samples(bands, np.uint16)
    meaning = GREY if bands == 1 else RGB
    path = write_tiff(tmp_path / "a.tif", stored, meaning, 0, orientation)
    plain = write_tiff(tmp_path / "b.tif", stored, meaning, 0)
    with Image.fromarray(read_image(plain)) as lying:
        exif = lying.getexif()
        exif[274] = orientation
        expected = np.asarray(ImageOps.exif_transpose(lying))
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_labels_with_a_tag_are_turned_too(tmp_path, depth):
    label = ids(0, 5).astype(depth)
    path = tagged(tmp_path / "a.png", label, 6)
    np.testing.assert_array_equal(read_label(path), np.rot90(label, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_tags_without_meaning_or_sense_leave_pictures_as_stored(tmp_path):
    for value in (0, 9, 77):
        assert read_header(tagged(tmp_path / f"{value}.png", picture(0), value)).orientation == 1
    broken = tmp_path / "broken.jpg"
    Image.fromarray(picture(0)).save(broken, exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert read_image(broken).shape == picture(0).shape
    nonsense = tmp_path / "nonsense.png"
    Image.fromarray(picture(0)).save(nonsense, exif=b"Exif\0\0nonsense")
    assert read_header(nonsense).orientation == 0
    assert read_image(nonsense).shape == picture(0).shape


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_training_evaluation_and_cache_show_labels_on_their_photos(tmp_path, orientation):
    root = turned(tmp_path / "data", orientation)
    files = opened(root)
    for k in range(3):
        (
            np.testing.assert_array_equal(files.image(k), picture(k)),
            label_of(files, k, files.image(k)),
        )
        assert files.size(k) == (32, 64)
    cache = Cache(files, tmp_path / "cache", EvalView(), with_labels=True)
    for read in (None, cache, cache):
        sample = FolderDataset(files, view=EvalView(), read=read)[0, 1]
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), files.image(1))
        np.testing.assert_array_equal(sample["label"], files.label(1))


def test_turned_photos_are_counted_by_the_check(tmp_path, caplog):
    root = turned(tmp_path / "data", 3)
    write(root / "images" / "3.png", picture(3))
    write(root / "masks" / "3.png", ids(3, 3))
    files = opened(root)
    looks = list(look_at(files, range(4), with_labels=True))
    report = Report.of(files, "source train", looks, {})
    (found,) = [f for f in report.suspicions if f.kind == "orientation tag"]
    assert found.message.startswith("3 of 4 pictures have an EXIF orientation tag other than 1")
    assert "(of 3 of them the sizes cannot tell)" in found.message and not report.faults
    with caplog.at_level(logging.WARNING):
        check_scenes(files, "source train", with_labels=True, samples=None)
    assert "source train: 3 of 4 pictures have an EXIF orientation tag" in caplog.text


def test_sizes_tell_of_photos_on_their_side(tmp_path):
    text = said(turned(tmp_path / "data", 6))["orientation tag"]
    assert text.startswith("3 of 3 pictures") and "cannot tell" not in text
    text = said(turned(tmp_path / "square", 6, size=(32, 32)))["orientation tag"]
    assert "(of 3 of them the sizes cannot tell)" in text


def test_a_mask_of_the_photo_as_stored_is_refused(tmp_path):
    root = turned(tmp_path / "data", 6)
    write(root / "masks" / "1.png", ids(1, 3, (64, 32)))
    with pytest.raises(DataError, match=r"1\.png.*orientation tag says; turn the label likewise"):
        check_scenes(opened(root), "source train", with_labels=True, samples=None)


def test_plain_pictures_need_no_remark(tmp_path):
    own_folder(tmp_path / "data", splits=["."], count=2)
    write(tmp_path / "data" / "images" / "9.png", np.dstack([picture(0), picture(0)[..., 0]]))
    assert said(tmp_path / "data") == {}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_fourth_band_changes_nothing(tmp_path, depth, extra, order):
    stored = samples(4, depth)
    for meaning in (RGB, GREY) if extra == 0 else (RGB,):
        path = write_tiff(tmp_path / "a.tif", stored, meaning, extra, order=order)
        expected = stored[..., :3] >> (8 if depth == np.uint16 else 0)
        np.testing.assert_array_equal(read_image(path), expected)
        assert read_header(path).has_more_bands


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 3])
def test_bands_are_red_green_and_blue_or_grey(tmp_path, depth, bands):
    stored = samples(bands, depth)
    expected = (stored if bands == 3 else np.dstack([stored] * 3)) >> (stored.itemsize - 1) * 8
    for meaning in (GREY, RGB)[:bands]:
        if bands == 1 and meaning == RGB:
            continue
        path = write_tiff(tmp_path / "a.tif", stored, meaning, 0)
        np.testing.assert_array_equal(read_image(path), expected)


def test_bands_stored_one_after_the_other_are_read(tmp_path):
    for bands in (3, 4):
        stored = samples(bands)
        path = write_tiff(tmp_path / "a.tif", stored, RGB, 2, apart=True)
        np.testing.assert_array_equal(read_image(path), stored[..., :3])


def test_more_bands_are_said(tmp_path):
    own_folder(tmp_path / "data", splits=["."], count=1)
    write_tiff(tmp_path / "data" / "images" / "9.tif", samples(4), RGB, 2)
    text = said(tmp_path / "data")["more bands"]
    assert text.startswith("1 of 2 pictures have 4 bands, the last of which is not used")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_is_dropped_without_multiplication(tmp_path, suffix):
    pixels = np.dstack([picture(0), np.full((32, 64), 9, np.uint8)])
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, lossless=True, exact=True)
    np.testing.assert_array_equal(read_image(path), pixels[..., :3])


@pytest.mark.parametrize(
    ("pixels", "meaning", "apart", "what"),
    [
        (samples(3, np.float32), RGB, False, "samples of float32"),
        (samples(1, np.float32), GREY, False, "samples of float32"),
        (samples(3, np.int16), RGB, False, "samples of int16"),
        (samples(5), RGB, False, "5 bands of uint8"),
        (samples(5, np.uint16), GREY, False, "5 bands of uint16"),
        (samples(2, np.uint16), GREY, False, "2 bands of uint16"),
        (samples(3, np.uint16), RGB, True, "bands of 16 bits stored one after the other"),
        (samples(1, np.uint16), 0, False, "samples of 16 bits that are neither grey nor RGB"),
    ],
)
def test_other_samples_are_refused_by_name(tmp_path, capfd, pixels, meaning, apart, what):
    path = write_tiff(tmp_path / "a.tif", pixels, meaning, 0, apart=apart)
    with pytest.raises(DataError, match=rf"a\.tif is not supported: {what}.*; images have"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_tiff_is_refused_in_silence(tmp_path, capfd):
    for pixels in (samples(3), samples(3, np.uint16)):
        path = write_tiff(tmp_path / "a.tif", pixels)
        whole = path.read_bytes()
        for length in range(4, len(whole) - 1, 7):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"a\.tif is"):
                read_image(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [(None, [0, 3, 11]), ((1000, 3000), [0, 0, 252]), ((0, 65535), [0, 4, 12])],
)
def test_stored_values_become_bytes(tmp_path, value_range, expected):
    stored = np.array([[0, 1000, 2980]], np.uint16)
    path = write(tmp_path / "a.png", stored)
    found = read_image(path, value_range=value_range)
    assert found.shape == (1, 3, 3) and found[0, :, 1].tolist() == expected


def test_a_range_of_bytes_is_stretched(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 50, 100, 200]], np.uint8))
    assert read_image(path, value_range=(50, 150))[0, :, 0].tolist() == [0, 0, 128, 255]


def test_percentiles_are_those_of_each_picture(tmp_path):
    stored = np.random.default_rng(0).integers(500, 3000, (40, 50, 3)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", stored)
    low, high = np.percentile(stored, (1, 99))
    expected = ((stored - low) * 255 / (high - low)).clip(0, 255)
    assert np.abs(read_image(path, value_range="percentile") - expected).max() < 1.5
    flat = write(tmp_path / "flat.png", np.full((4, 5), 7, np.uint16))
    assert not read_image(flat, value_range="percentile").any()


@pytest.mark.parametrize("setting", [[1], [5, 5], [9, 1], ["a", "b"], "minmax", 3, True, [1, 2, 3]])
def test_what_is_no_range_is_refused(setting):
    with pytest.raises(ValueError, match=r"data\.value_range must be \[lowest, highest\]"):
        value_range_of(setting)


def test_unused_values_are_said_until_the_range_fits(tmp_path):
    own_folder(tmp_path / "data", splits=["."], count=1)
    (tmp_path / "data" / "images" / "0.png").unlink()
    stored = np.arange(3060, dtype=np.uint16).reshape(60, 51)
    write_tiff(tmp_path / "data" / "images" / "0.tif", stored, GREY)
    text = said(tmp_path / "data")["few values"]
    assert "values from 0 to 3059, and once these are bytes, 12 of 255 values are used" in text
    assert "set data.value_range=[0,3059], or data.value_range=percentile" in text
    assert said(tmp_path / "data", value_range=[0, 3059]) == {}
    assert said(tmp_path / "data", value_range="percentile") == {}


def test_a_range_that_does_not_fit_is_said_of_bytes_too(tmp_path):
    own_folder(tmp_path / "data", splits=["."], count=2)
    assert "few values" in said(tmp_path / "data", value_range=[0, 3060])
    assert said(tmp_path / "data", value_range=[0, 200]) == {}


def test_another_range_is_another_picture_in_cache_and_fingerprint(tmp_path):
    own_folder(tmp_path / "data", splits=["."], count=1)
    ranges = [None, [0, 100], [0, 200], "percentile"]
    sets = [opened(tmp_path / "data", value_range=value) for value in ranges]
    assert len({fingerprint(files) for files in sets}) == 4
    for files in sets:
        read = Cache(files, tmp_path / "cache", EvalView(), with_labels=False)
        np.testing.assert_array_equal(read(0).image, files.image(0))
        np.testing.assert_array_equal(read(0).image, files.image(0))


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "ppm", "pnm", "pgm"])
def test_rare_suffixes_are_read(tmp_path, suffix):
    grey = np.ascontiguousarray(picture(0)[..., 0])
    pixels = grey if suffix == "pgm" else picture(0)
    kind = "JPEG" if suffix in {"jfif", "jpe"} else "PPM"
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", format=kind)
    found = read_image(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(found - (pixels if pixels.ndim == 3 else pixels[..., None])).mean() < 10


@pytest.mark.parametrize("largest", [15, 1023, 65535])
def test_netpbm_files_say_their_largest_value(tmp_path, largest):
    path = tmp_path / "a.pgm"
    stored = np.array([[0, largest]], ">u2" if largest > 255 else np.uint8)
    path.write_bytes(b"P5 # c\n2 1\n%d\n" % largest + stored.tobytes())
    if largest == 65535:
        assert read_image(path)[0, :, 0].tolist() == [0, 255]
        return
    with pytest.raises(DataError, match=f"not supported: samples of values up to {largest}"):
        read_image(path)


def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path, caplog):
    own_folder(tmp_path / "data", splits=["."], count=1)
    for name in ("a.HEIC", "b.heic", "c.txt", "README", ".hidden.txt", "sub/d.txt"):
        path = tmp_path / "data" / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with caplog.at_level(logging.INFO):
        assert len(opened(tmp_path / "data")) == 1
    assert "images: 5 files passed over: no suffix 1, .heic 2, .txt 2" in caplog.text
