"""Image and label files that are damaged, of another kind, or larger than they look."""

import io
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from payload import flipped, truncated
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "data"))
from make import ids, own_folder, picture

from sfseg.data.check import Checks
from sfseg.data.folder import FolderDataset
from sfseg.data.layouts import folder
from sfseg.types import IGNORE

SIZE = (32, 64)
CLASSES = 3
MEGABYTES = 200
"""More memory than all that these files may take."""
Valid = Callable[[np.ndarray], bool]


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def tree() -> Path:
    """A set of three scenes, the second of which is to be replaced."""
    own_folder(Path("set"), splits=("train",))
    return Path("set")


def opened(kind: str, name: str, put: Callable[[Path], object]) -> tuple[object, FolderDataset]:
    """The set with another file for the second scene's image or label."""
    root = tree()
    (root / kind / "train" / "1.png").unlink()
    put(root / kind / "train" / name)
    scenes = folder(root, "train", classes=root / "classes.yaml")
    return scenes, FolderDataset(scenes)


def used(kind: str, name: str, put: Callable[[Path], object], is_valid: Valid) -> str:
    """Read the scene as training does; what is read must be sound."""
    _, dataset = opened(kind, name, put)
    sample = dataset[0, 1]
    assert sample["image"].shape[1:] == sample["label"].shape
    found = sample["image"] if kind == "images" else sample["label"]
    assert is_valid(found.numpy())
    label = sample["label"].numpy()
    assert ((label < CLASSES) | (label == IGNORE)).all()
    return "harmless"


def skipped(kind: str, name: str, put: Callable[[Path], object]) -> str:
    """With data.on_error=skip the set is used without the scene."""
    scenes, _ = opened(kind, name, put)
    checks = Checks(on_error="skip", max_skipped=1)
    left_out = checks.passed(scenes, "train", with_labels=True)
    assert left_out.indices == {1} and left_out.text == "1 of 3 scenes left out"
    dataset = FolderDataset(scenes, on_error="skip", left_out=left_out.indices)
    assert [dataset[0, k]["index"] for k in range(3)] == [0, 2, 2]
    return "skipped"


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def light(attempt: Callable[[], str]) -> str:
    """The attempt, which must not take the memory that the file claims."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return attempt()
    finally:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown < MEGABYTES, f"{grown:.0f} MB were taken"


def damages() -> Iterator[tuple[str, str, str, bytes, Valid]]:
    """Name, kind, file name, content, and what may be read from it if anything is."""
    image, label = picture(1), ids(1, CLASSES)
    same: Valid = lambda found: np.array_equal(found, image.transpose(2, 0, 1))  # noqa: E731
    same_label: Valid = lambda found: np.array_equal(found, label)  # noqa: E731
    anything: Valid = lambda found: found.dtype == np.uint8  # noqa: E731
    png, masks = encoded(image, "PNG"), encoded(label, "PNG")
    jpeg, webp = encoded(image, "JPEG"), encoded(image, "WEBP")
    tiff, bmp = encoded(image, "TIFF"), encoded(image, "BMP")
    for kind, name, data, cuts, flips, whole, changed in (
        ("images", "1.png", png, 12, 14, same, same),
        ("masks", "1.png", masks, 12, 14, same_label, same_label),
        # These have no checksums: what is not complete is refused, what is changed is a picture.
        ("images", "1.jpg", jpeg, 12, 12, None, anything),
        ("images", "1.webp", webp, 6, 6, None, anything),
        ("images", "1.tif", tiff, 6, 6, same, anything),
        ("images", "1.bmp", bmp, 6, 6, same, anything),
        ("masks", "1.tif", encoded(label, "TIFF"), 6, 6, same_label, anything),
        ("masks", "1.bmp", encoded(label, "BMP"), 6, 6, same_label, anything),
    ):
        never: Valid = lambda _: False  # noqa: E731
        for what, content in truncated(data, cuts):
            yield f"{kind}/{name} {what}", kind, name, content, whole or never
        for what, content in flipped(data, flips):
            yield f"{kind}/{name} {what}", kind, name, content, changed


def modes() -> Iterator[tuple[str, str, str, bytes, Valid]]:
    """Good files of kinds that a set may hold by mistake, as images and as labels."""
    image, label = picture(1), ids(1, CLASSES)
    grey, anything = image[..., 0], lambda found: found.dtype == np.uint8
    deep = grey.astype(np.uint16) * 257
    alpha = np.dstack([image, grey])
    cmyk = io.BytesIO()
    Image.fromarray(image).convert("CMYK").save(cmyk, "JPEG")
    palette = io.BytesIO()
    Image.fromarray(image).quantize(16).save(palette, "PNG")
    images = {
        "16 bit.png": encoded(deep, "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "grey and alpha.png": encoded(alpha[..., 2:], "PNG"),
        "cmyk.jpg": cmyk.getvalue(),
        "palette.png": palette.getvalue(),
        "1 bit.png": encoded(grey > 99, "PNG"),
        "gif in disguise.png": encoded(grey, "GIF"),
    }
    for name, data in images.items():
        yield f"images/{name}", "images", f"1{Path(name).suffix}", data, anything
        yield f"masks/{name}", "masks", f"1{Path(name).suffix}", data, anything
    for number, pixels in enumerate((grey.astype(np.float32) / 255, np.full(SIZE, np.nan, "f4"))):
        data = encoded(pixels, "TIFF")
        for kind in ("images", "masks"):
            yield f"{kind}/float {number}.tif", kind, "1.tif", data, lambda _: False
    for value in (CLASSES, 19, 100, 254):
        wrong = label.copy()
        wrong[3, 4] = value
        yield f"masks/id {value}", "masks", "1.png", encoded(wrong, "PNG"), lambda _: False
    for value in (-1, 256, 65535, 1 << 20):
        wide = label.astype(np.int32)
        wide[0, 0] = value
        yield f"masks/id {value}", "masks", "1.tif", encoded(wide, "TIFF"), lambda _: False
    for shape in ((32, 63), (64, 32), (1, 1), (33, 64)):
        data = encoded(ids(0, CLASSES, (max(shape[0], 2), max(shape[1], 2)))[: shape[0]], "PNG")
        yield f"masks/size {shape}", "masks", "1.png", data, lambda _: False


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """Small files that claim very large pictures."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    def png(side: int, depth: int, colour: int, data: bytes) -> bytes:
        head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
        parts = chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    rows = zlib.compress(bytes(30000 * 3751), 1)
    yield "png of 30000x30000, all of it there", "1.png", png(30000, 1, 0, rows)
    yield "png of 30000x30000 grey", "1.png", png(30000, 8, 0, zlib.compress(b""))
    yield "png of 30000x30000 rgb", "1.png", png(30000, 8, 2, zlib.compress(bytes(999)))
    yield "png of 2**31-1 pixels a side", "1.png", png(2**31 - 1, 16, 6, b"")
    yield "png of no pixels", "1.png", png(0, 8, 2, zlib.compress(b""))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20), 1))
    small = encoded(picture(1), "PNG")
    yield "png with 80 MB of text", "1.png", small[:33] + text + small[33:]
    jpeg = bytearray(encoded(picture(1), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65000, 65000)
    yield "jpeg of 65000x65000", "1.jpg", bytes(jpeg)
    bmp = bytearray(encoded(picture(1), "BMP"))
    bmp[18:26] = struct.pack("<ii", 40000, 40000)
    yield "bmp of 40000x40000", "1.bmp", bytes(bmp)
    bmp[18:26] = struct.pack("<ii", -5, 2**30)
    yield "bmp of -5 columns", "1.bmp", bytes(bmp)
    webp = bytearray(encoded(picture(1), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16383 | 16383 << 14)
    yield "webp of 16384x16384", "1.webp", bytes(webp)


def oddities() -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """Things that are no regular image file."""
    for name, data in {
        "empty": b"", "a zero": b"\0", "header of png": b"\x89PNG\r\n\x1a\n",
        "header of jpeg": b"\xff\xd8\xff\xe0", "header of tiff": b"II*\0", "text": b"hello\n" * 99,
        "html": b"<!doctype html><title>404</title>", "pickle": b"\x80\x04cos\nsystem\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items():  # fmt: skip
        yield name, "1.png", written(data)
    yield "folder", "1.png", lambda path: path.mkdir()
    yield "pipe", "1.png", os.mkfifo
    yield "link to itself", "1.png", lambda path: path.symlink_to(path.name)
    yield "link to nothing", "1.png", lambda path: path.symlink_to("nowhere.png")
    yield "link to an endless device", "1.png", lambda path: path.symlink_to("/dev/zero")
    yield "link out of the root", "1.png", lambda path: path.symlink_to(outside())
    yield "a file of 2 TB without content", "1.png", sparse
    if os.geteuid():
        yield "forbidden", "1.png", lambda path: (path.write_bytes(b"x"), path.chmod(0))


def has_text(name: str, found: np.ndarray) -> bool:
    return "text" in name


def is_folder(name: str, found: np.ndarray) -> bool:
    return name == "folder" and not np.array_equal(found, picture(1).transpose(2, 0, 1))


def outside() -> Path:
    """A good image that is not the set's."""
    path = Path("outside.png").absolute()
    path.write_bytes(encoded(picture(9), "PNG"))
    return path


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 41)


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for name, kind, file, data, is_valid in (*damages(), *modes()):
        yield name, partial(used, kind, file, written(data), is_valid)
    for name, file, data in bombs():
        for kind in ("images", "masks"):
            # What only has much text beside its pixels may be read.
            is_valid = partial(has_text, name)
            attempt = partial(used, kind, file, written(data), is_valid)
            yield f"{kind}/{name}", partial(light, attempt)
    for name, file, put in oddities():
        for kind in ("images", "masks"):
            # A folder of this name is one without images: there is no such scene then.
            is_valid = partial(is_folder, name)
            yield f"{kind}/{name}", partial(light, partial(used, kind, file, put, is_valid))
    png = encoded(picture(1), "PNG")
    for name, kind, file, put in (
        ("cut", "images", "1.png", written(png[:-50])),
        ("cut label", "masks", "1.png", written(png[:-50])),
        ("other size", "masks", "1.png", written(encoded(ids(0, 3, (9, 9)), "PNG"))),
        ("no class", "masks", "1.png", written(encoded(np.full(SIZE, 7, np.uint8), "PNG"))),
        ("missing label", "masks", "1.png", lambda _: None),
        ("empty", "images", "1.png", written(b"")),
        ("pipe", "images", "1.png", os.mkfifo),
        ("bomb", "images", "1.png", written(next(bombs())[2])),
    ):
        yield f"data.on_error=skip: {name}", partial(light, partial(skipped, kind, file, put))
