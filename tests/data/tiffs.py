"""TIFF files as satellites and drones bring them, which common libraries do not write."""

import struct

import numpy as np

GREY, RGB = 1, 2
FORMATS = {"u": 1, "i": 2, "f": 3}


def write_tiff(path, pixels, meaning=RGB, extra=None, orientation=1, order="<", apart=False):
    """One strip, not compressed.

    Args:
        path: of the file.
        pixels: (H, W) or (H, W, bands) of any type.
        meaning: of the first bands.
        extra: what the bands beside these are: 0 unknown, 2 alpha.
        orientation: EXIF's number.
        order: of bytes.
        apart: bands one after the other.
    """
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    height, width, bands = pixels.shape
    stored = (pixels.transpose(2, 0, 1) if apart else pixels).astype(
        pixels.dtype.newbyteorder(order)
    )
    data = stored.tobytes()
    depth, kind = 8 * pixels.dtype.itemsize, FORMATS[pixels.dtype.kind]
    others = bands - (3 if meaning == RGB else 1)
    parts = bands if apart else 1
    starts = [8 + k * len(data) // parts for k in range(parts)]
    tags = [
        (256, "L", [width]), (257, "L", [height]), (258, "H", [depth] * bands), (259, "H", [1]),
        (262, "H", [meaning]), (273, "L", starts), (274, "H", [orientation]), (277, "H", [bands]),
        (278, "L", [height]), (279, "L", [len(data) // parts] * parts),
        (284, "H", [2 if apart else 1]), (338, "H", [extra] * others), (339, "H", [kind] * bands),
    ]  # fmt: skip
    tags = [tag for tag in tags if tag[0] != 338 or (others and extra is not None)]
    directory, tail = b"", b""
    place = 8 + len(data)
    after = place + 2 + 12 * len(tags) + 4
    for number, code, values in tags:
        value = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(value) > 4:
            value, tail = struct.pack(f"{order}L", after + len(tail)), tail + value
        directory += struct.pack(f"{order}HHL", number, {"H": 3, "L": 4}[code], len(values))
        directory += value.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, place)
    count = struct.pack(f"{order}H", len(tags))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start + data + count + directory + bytes(4) + tail)
    return path


def samples(bands, dtype=np.uint8, size=(6, 9)):
    """Random samples (H, W, bands), (H, W) of one band."""
    most = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    drawn = np.random.default_rng(bands).random((*size, bands)) * most
    return drawn.astype(dtype)[..., 0] if bands == 1 else drawn.astype(dtype)
