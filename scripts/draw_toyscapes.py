"""Draw the pictures of docs/toyscapes.md: both domains, and the city at every shift."""

import argparse
from pathlib import Path

import cv2
import numpy as np

from sfseg.data.toyscapes.scenes import SHIFTS, Toyscapes
from sfseg.labels import CITYSCAPES
from sfseg.report.drawing import Pixels, colourise, legend, sheet

COLUMNS = 3


def row(scenes: Toyscapes, first: int) -> list[Pixels]:
    """Images and labels of consecutive scenes, side by side."""
    tiles = []
    for index in range(first, first + COLUMNS):
        tiles += [scenes.image(index), colourise(scenes.label(index), CITYSCAPES.palette)]
    return tiles


def draw(style_seed: int) -> Pixels:
    """One row of the game, then one of the city for each shift."""
    rows = [("game (source)", row(Toyscapes("game", "test", length=50), 3))]
    for shift in SHIFTS:
        city = Toyscapes("city", "test", length=50, shift=shift, style_seed=style_seed)
        rows.append((f"city (target), shift={shift}, style_seed={style_seed}", row(city, 3)))
    picture = sheet(rows, ["image", "label"] * COLUMNS)
    return np.vstack([picture, legend(CITYSCAPES.classes, CITYSCAPES.palette, picture.shape[1])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--style-seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for seed in options.style_seeds:
        name = "toyscapes.jpg" if seed == 0 else f"toyscapes_style{seed}.jpg"
        picture = cv2.cvtColor(draw(seed), cv2.COLOR_RGB2BGR)
        path = options.output / name
        # JPEG: the city's sensor noise makes a PNG ten times as large.
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 88]):
            raise OSError(f"{path} cannot be written")
        print(path)


if __name__ == "__main__":
    main()
