"""Write the examples of docs/own_data: a picture, a mask and its classes for each kind of mask.

All masks hold the same blocks, so that they must be read as the same classes.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "own_data"
NAMES = ("road", "car", "person", "void")
BLOCKS = np.array([[0, 0, 1], [3, 2, 0]])
"""Positions in NAMES, of blocks of 8x8 pixels."""
COLOURS = ((128, 64, 128), (0, 0, 142), (220, 20, 60), (0, 0, 0))
CLASSES = "classes: [road, car, person]\n"
PALETTE = "palette: [[128, 64, 128], [0, 0, 142], [220, 20, 60]]\n"
TWO = "classes: [background, car]\n"


def blocks(values: Sequence[object], odd: object = None) -> NDArray[np.uint8]:
    """The mask with these values for road, car, person and void; ``odd`` for the second block."""
    table = np.array(values)
    pixels = table[BLOCKS]
    if odd is not None:
        pixels[0, 1] = odd
    return (
        pixels.repeat(8, axis=0)
        .repeat(8, axis=1)
        .astype(np.uint16 if table.max() > 255 else np.uint8)
    )


def save(kind: str, classes: str, mask: Image.Image | NDArray, name: str = "a.png") -> None:
    """One example: ``classes.yaml``, ``images/a.png`` and the mask."""
    for part in ("images", "masks"):
        (FOLDER / kind / part).mkdir(parents=True, exist_ok=True)
    (FOLDER / kind / "classes.yaml").write_text(classes, encoding="utf-8")
    Image.fromarray(blocks([(90, 90, 95), (160, 30, 30), (200, 150, 120), (140, 180, 220)])).save(
        FOLDER / kind / "images" / "a.png", optimize=True
    )
    path = FOLDER / kind / "masks" / name
    if isinstance(mask, np.ndarray):
        assert cv2.imwrite(str(path), mask)
    else:
        # Optimised, a file with a palette would get other numbers.
        options = (
            {"quality": 95, "subsampling": 0}
            if path.suffix == ".jpg"
            else {"optimize": mask.mode != "P"}
        )
        mask.save(path, **options)


def main() -> None:
    """Write all."""
    ids, colours = blocks([0, 1, 2, 255]), Image.fromarray(blocks(COLOURS))
    save("ids", CLASSES, Image.fromarray(ids))
    save("ids_of_my_own", CLASSES + "values: [1, 2, 3]\nignore: [0]\n",
         Image.fromarray(blocks([1, 2, 3, 0])))  # fmt: skip
    save("black_and_white", TWO + "values: [0, 255]\n", Image.fromarray(blocks([0, 255, 0, 0])))
    save("one_bit", TWO, Image.fromarray(blocks([0, 1, 0, 0]).astype(bool)))
    palette_file = Image.fromarray(ids)
    palette_file.putpalette([v for colour in COLOURS for v in colour] + [0] * 252 * 3)
    save("palette_file", CLASSES, palette_file)
    save("colours", CLASSES + PALETTE, colours)
    voc = blocks([(0, 0, 0), (128, 128, 128), (192, 128, 128), (224, 224, 192)])
    save(
        "voc_colours",
        "classes: [background, car, person]\n"
        "palette: [[0, 0, 0], [128, 128, 128], [192, 128, 128]]\n"
        "ignore: [[224, 224, 192]]\n",
        Image.fromarray(voc),
    )
    save("wide_ids", CLASSES + "values: [0, 1, 1000]\nignore: [65535]\n",
         blocks([0, 1, 1000, 65535]))  # fmt: skip
    save("three_equal_channels", CLASSES, Image.fromarray(np.dstack([ids] * 3)))
    numbers = np.dstack([blocks([1, 10, 4, 0]), np.zeros_like(ids), np.zeros_like(ids)])
    save("red_channel", CLASSES + "values: [1, 10, 4]\nignore: [0]\nchannel: red\n",
         Image.fromarray(numbers))  # fmt: skip
    save("several_ids", CLASSES + "values: [[7, 8], 26, [24, 25]]\nignore: [0]\n",
         Image.fromarray(blocks([7, 26, 25, 0], odd=8)))  # fmt: skip
    save(
        "several_colours",
        CLASSES + "palette: [[[128, 64, 128], [244, 35, 232]], [0, 0, 142], [220, 20, 60]]\n",
        Image.fromarray(blocks(COLOURS, odd=(244, 35, 232))),
    )
    save("ignored_colours", CLASSES + PALETTE + "ignore: [[255, 255, 255], [70, 70, 70]]\n",
         Image.fromarray(blocks([*COLOURS[:3], (70, 70, 70)])))  # fmt: skip
    save("nearest_colours", CLASSES + PALETTE + "nearest: true\n", colours, "a.jpg")
    save(
        "map",
        "classes: [road, sidewalk, car, truck, person, rider, terrain]\n"
        "map: {sidewalk: road, truck: car, rider: person, terrain: null}\n",
        Image.fromarray(blocks([0, 3, 5, 6], odd=1)),
    )
    save("mask_suffix", CLASSES, Image.fromarray(ids), "a_mask.png")


if __name__ == "__main__":
    main()
