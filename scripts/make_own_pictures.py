"""Write the examples of docs/own_data/pictures: one image of each kind, with its mask.

python scripts/make_own_pictures.py [folder]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "own_data" / "pictures"
COLOURS = np.array([(110, 90, 110), (20, 40, 150), (210, 60, 60)], np.uint8)
NEAR_INFRARED = np.array([40, 90, 160], np.uint8)
"""Of a road, a car and a person."""


def main(folder: Path) -> None:
    """The same scene of 24x16 pixels, stored in each way."""
    mask = np.zeros((16, 24), np.uint8)
    mask[6:13, 3:12] = 1
    mask[3:14, 16:20] = 2
    image = COLOURS[mask]
    image[:3] += 40
    bgr, grey = image[..., ::-1], image.mean(-1)
    images = {
        name: folder / name / "images" / f"a.{suffix}"
        for name, suffix in (
            ("turned", "jpg"), ("alpha", "png"), ("four_bands", "tif"), ("twelve_bits", "tif"),
            ("thermal", "png"), ("grey", "jfif"), ("floating", "tif"),
        )
    }  # fmt: skip
    for path in images.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parents[1] / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(path.parents[1] / "masks" / "a.png")
        (path.parents[1] / "classes.yaml").write_text("classes: [road, car, person]\n")
    tag = Image.Exif()
    tag[274] = 6
    Image.fromarray(np.rot90(image)).save(images["turned"], exif=tag, quality=100, subsampling=0)
    Image.fromarray(np.dstack([image, np.full_like(mask, 99)])).save(images["alpha"])
    Image.fromarray(np.dstack([image, NEAR_INFRARED[mask]])).save(images["four_bands"])
    cv2.imwrite(str(images["twelve_bits"]), bgr.astype(np.uint16) * 12)
    Image.fromarray((27000 + 20 * grey).astype(np.uint16)).save(images["thermal"])
    Image.fromarray(grey.astype(np.uint8)).save(images["grey"], format="JPEG", quality=100)
    cv2.imwrite(str(images["floating"]), bgr.astype(np.float32) / 255)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
