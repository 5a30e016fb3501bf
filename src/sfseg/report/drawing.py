"""Pictures of labels: colours, overlays, error maps, captioned sheets, and their files."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.errors import DataError
from sfseg.labels import Colour
from sfseg.storage.atomic import write_whole
from sfseg.types import IGNORE

Pixels = NDArray[np.uint8]
RIGHT, WRONG = (60, 60, 60), (255, 60, 40)
NAMED = 0.02
"""Share of a picture from which on a class is called by its name."""
CAPTION = 22
"""Height of a line of words above tiles."""
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def colourise(label: Pixels, palette: Sequence[Colour]) -> Pixels:
    """(H, W) class ids to (H, W, 3) RGB; IGNORE and ids beyond the palette are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[label]


def overlay(
    image: Pixels, label: Pixels, palette: Sequence[Colour], opacity: float = 0.55
) -> Pixels:
    """The class colours over an RGB image of the same size; void pixels stay as they are."""
    colours = colourise(label, palette)
    mixed = cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)
    mixed = cv2.copyTo(image, (label == IGNORE).astype(np.uint8), mixed)
    return np.asarray(mixed, dtype=np.uint8)


def write_names(image: Pixels, label: Pixels, names: Sequence[str]) -> None:
    """Write on an RGB image, in place, the name of each class where most of it is.

    Classes of less than :data:`NAMED` of the label map (H, W) have no room for one.
    """
    for k, name in enumerate(names):
        # Nothing lies beyond the border, so that a name keeps away from it too.
        inside = np.pad((label == k).astype(np.uint8), 1)
        if inside.sum() < NAMED * label.size:
            continue
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        room = max(0, label.shape[1] - text_width(name))
        origin = (min(max(0, int(x) - text_width(name) // 2), room), int(y) + 5)
        cv2.putText(image, name, origin, FONT, SCALE, (0, 0, 0), 3, cv2.LINE_AA)
        put_text(image, name, origin, (255, 255, 255))


def error_map(prediction: Pixels, label: Pixels) -> Pixels:
    """Wrong pixels red, right ones dark grey, unlabelled ones black."""
    table = np.array([(0, 0, 0), RIGHT, WRONG], np.uint8)
    state = np.where(label == IGNORE, 0, np.where(prediction == label, 1, 2))
    return table[state]


def sheet(rows: Sequence[tuple[str, Sequence[Pixels]]], titles: Sequence[str]) -> Pixels:
    """One picture of captioned rows, all tiles scaled to one size.

    Args:
        rows: caption and tiles (RGB) of each row.
        titles: one caption per column.
    """
    size = tile_size(rows[0][1][0])
    width = size[0]
    lines = [np.hstack([_caption(title, width) for title in titles])]
    for caption, tiles in rows:
        lines.append(_caption(caption, width * len(titles)))
        lines.append(np.hstack([_tile(tile, size) for tile in tiles]))
    return np.vstack(lines)


def tile_size(image: Pixels) -> tuple[int, int]:
    """Width and height of all tiles of a sheet whose first tile is this one."""
    height, width = image.shape[:2]
    shown = max(320, min(640, width))
    return shown, max(1, round(shown * (height / width)))


def legend(names: Sequence[str], palette: Sequence[Colour], width: int) -> Pixels:
    """A strip of class names on their colours, as many lines as needed; long names are cut."""
    widest = max(text_width(numbered(name, k)) for k, name in enumerate(names))
    cell, height = min(max(130, widest + 10), 260), 22
    per_line = max(1, width // cell)
    lines = -(-len(names) // per_line)
    strip = np.zeros((lines * height, width, 3), np.uint8)
    for k, (name, colour) in enumerate(zip(names, palette, strict=True)):
        top, left = k // per_line * height, k % per_line * cell
        strip[top : top + height, left : left + cell] = colour
        ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
        put_text(strip, shorten(numbered(name, k), cell - 8), (left + 4, top + 15), ink)
    return strip


def put_text(image: Pixels, text: str, origin: tuple[int, int], colour: Colour) -> None:
    """Write on an image, from the left end of the base line, (x, y) in pixels."""
    cv2.putText(image, readable(text), origin, FONT, SCALE, colour, 1, cv2.LINE_AA)


def text_width(text: str) -> int:
    """Pixels that :func:`put_text` takes from left to right."""
    return int(cv2.getTextSize(readable(text), FONT, SCALE, 1)[0][0])


def shorten(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits into a width in pixels."""
    if text_width(text) <= width:
        return text
    while text and text_width(text + "...") > width:
        text = text[:-1]
    return text + "..."


def readable(text: str) -> str:
    """The text as the font has it, which is ASCII: accents go, what is left becomes ``?``."""
    parts = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in parts if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


def numbered(name: str, class_id: int) -> str:
    """A class's name to draw, with its id where the font lacks a part of the name."""
    is_lost = readable(name).count("?") > name.count("?")
    return f"{class_id}: {name}" if is_lost else name


def write_png(path: Path, image: Pixels) -> None:
    """Write (H, W) or RGB (H, W, 3) pixels, whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    data = png(image)
    try:
        write_whole(path, lambda file: file.write(data))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def png(image: Pixels) -> bytes:
    """(H, W) or RGB (H, W, 3) pixels as the content of a PNG file.

    Raises:
        DataError: no image has this shape.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    encoded, data = cv2.imencode(".png", stored)
    if not encoded:
        raise DataError(f"an image of shape {image.shape} cannot be encoded as PNG")
    return data.tobytes()


def _tile(tile: Pixels, size: tuple[int, int]) -> Pixels:
    # Nearest: a picture of labels must not invent colours between classes.
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _caption(text: str, width: int) -> Pixels:
    strip = np.full((CAPTION, width, 3), 24, np.uint8)
    put_text(strip, text, (6, 15), (235, 235, 235))
    return strip
