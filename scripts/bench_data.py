"""Cost of one training sample: our uint8 pipeline against the classic order of transforms.

Both arms make a 512x512 crop, ready for the device, from one 2048x1024 PNG image and its label.
The classic arm resizes image and label, tries crops with ``np.unique``, flips, distorts colours
in separate float32 steps and normalises on the processor, as mmsegmentation does; ours crops
before it looks anything up, stays in uint8 and leaves normalisation to the network. The cached arm
is ours with data.cache=memmap, once the pictures are there.

All arms run in one process on one thread, in turn; the numbers are CPU time per sample, averaged
over the random views and the minimum of the repeats. Read the ratios.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from sfseg.data.cache import Cache
from sfseg.data.colour import ColourJitter
from sfseg.data.decoding import Decoding
from sfseg.data.files import Files
from sfseg.data.folder import FolderDataset
from sfseg.data.geometry import (
    CROP_TRIES,
    Geometry,
    Image,
    Size,
    View,
    crop_image,
    crop_label,
)
from sfseg.data.images import read_image, read_label
from sfseg.data.label_ids import id_table
from sfseg.labels import CITYSCAPES
from sfseg.report.drawing import write_png
from sfseg.types import IGNORE

MAX_SHARE = 0.75
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])


def scene(size: Size, seed: int = 0) -> tuple[Image, Image]:
    """(image, label): clouds of all sizes with sensor noise, and blobs of 19 classes."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.full((height, width, 3), 110, np.float32)
    for cells in (4, 16, 64, 256):
        clouds = rng.normal(0, 90 / cells**0.5, (max(1, cells // 2), cells, 3)).astype(np.float32)
        image += cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 1, image.shape)
    scores = rng.random((CITYSCAPES.num_classes, 8, 16), np.float32)
    label = np.stack([cv2.resize(s, (width, height)) for s in scores]).argmax(0).astype(np.uint8)
    label[-height // 12 :] = IGNORE
    return image.clip(0, 255).astype(np.uint8), label


class Classic:
    """The classic order, written from its description."""

    def __init__(self, resize: Size, crop: Size) -> None:
        self.resize, self.crop = resize, crop

    def decode(self, image: Path, label: Path) -> tuple[Image, Image]:
        with PILImage.open(label) as opened:
            return cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB), np.array(opened)

    def sample(self, image: Image, label: Image, seed: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(seed)
        image, label = self.scale(image, label)
        for _ in range(CROP_TRIES):
            top = rng.integers(image.shape[0] - self.crop[0] + 1)
            left = rng.integers(image.shape[1] - self.crop[1] + 1)
            window = np.s_[top : top + self.crop[0], left : left + self.crop[1]]
            ids, counts = np.unique(label[window], return_counts=True)
            counts = counts[ids != IGNORE]
            if len(counts) > 1 and counts.max() / counts.sum() < MAX_SHARE:
                break
        image, label = image[window], label[window]
        if rng.random() < 0.5:
            image, label = np.flip(image, axis=1), np.flip(label, axis=1).copy()
        return self.output(self.distort(image, rng), label)

    def scale(self, image: Image, label: Image) -> tuple[Image, Image]:
        size = self.resize[::-1]
        return cv2.resize(image, size), cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)

    def distort(self, image: Image, rng: np.random.Generator) -> Image:
        contrast_first = rng.random() < 0.5
        if rng.random() < 0.5:
            image = linear(image, 1, rng.uniform(-32, 32))
        if contrast_first and rng.random() < 0.5:
            image = linear(image, rng.uniform(0.5, 1.5), 0)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 1] = linear(hsv[:, :, 1], rng.uniform(0.5, 1.5), 0)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + rng.integers(-18, 18)) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not contrast_first and rng.random() < 0.5:
            image = linear(image, rng.uniform(0.5, 1.5), 0)
        return image

    def output(self, image: Image, label: Image) -> tuple[Tensor, Tensor]:
        pixels = image.astype(np.float32)
        cv2.subtract(pixels, MEAN.reshape(1, -1), pixels)
        cv2.multiply(pixels, 1 / STD.reshape(1, -1), pixels)
        below, right = self.crop[0] - label.shape[0], self.crop[1] - label.shape[1]
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
        label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORE)
        chw = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return torch.from_numpy(chw), torch.from_numpy(label.astype(np.int64))


def linear(image: Image, factor: float, offset: float) -> Image:
    return (image.astype(np.float32) * factor + offset).clip(0, 255).astype(np.uint8)


class Decoded(Files):
    """Scenes that are decoded already, to time what follows."""

    def __init__(self, files: Files) -> None:
        super().__init__(files.root, files.images, files.masks, files.decoding)
        self.pixels, self.ids = files.image(0), files.label(0)

    def image(self, index: int) -> Image:
        return self.pixels

    def label(self, index: int) -> Image:
        return self.ids


def check_equal(classic: Classic, image: Image, label: Image, view: View, views: int) -> None:
    """The arms agree on every pixel of the same crop before its colours are distorted."""
    # Of labels, ours takes the pixel under the centre; cv2's plain nearest neighbour, in the
    # classic arm, takes the one under the corner.
    scaled = classic.scale(image, label)[0]
    centred = cv2.resize(label, classic.resize[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    for seed in range(views):
        geometry = view.draw(label, np.random.default_rng(seed))
        assert np.array_equal(crop_image(image, geometry), window(scaled, geometry)), "images"
        assert np.array_equal(crop_label(label, geometry), window(centred, geometry)), "labels"


def check_cached(classic: Classic, files: Files, cache: Cache, views: int) -> None:
    """Crops from the cache, colours untouched, equal the classic arm's, file by file."""
    image, label = files.image(0), files.label(0)
    scaled = classic.scale(image, label)[0]
    centred = cv2.resize(label, classic.resize[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    assert isinstance(cache.view, View)
    for number in range(views):
        sample = FolderDataset(files, view=cache.view, read=cache)[number, 0]
        geometry = Geometry(*sample["geometry"].tolist())
        shown = window(scaled, geometry).transpose(2, 0, 1)
        assert np.array_equal(sample["image"].numpy(), shown), "cached images"
        assert np.array_equal(sample["label"].numpy(), window(centred, geometry)), "cached labels"


def window(pixels: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    top, left, height, width, flip = geometry[4:]
    shown = pixels[top : top + height, left : left + width]
    return shown[:, ::-1] if flip else shown


def each(make: Callable[[int], object], views: int) -> None:
    for number in range(views):
        make(number)  # not kept: fresh memory for every sample would cost both arms more


def least_cpu_ms(arms: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Minimum CPU time of each arm in milliseconds; the arms take turns."""
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.process_time()
            arm()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def report(best: Mapping[str, float], views: int) -> None:
    classic, ours = best["classic"] / views, best["ours"] / views
    mapping = best["label file"] - best["read label"]
    decode = {"classic": best["classic decode"], "ours": best["decode"]}
    print(f"{'ms per sample':30s}{'classic':>9s}{'ours':>9s}{'ratio':>9s}")
    rows = {
        "decode image and label": (decode["classic"], decode["ours"]),
        "map and check label ids": (0.0, mapping),
        "view, colour, output": (classic, ours),
        "all but decode": (classic, ours + mapping),
        "total": (decode["classic"] + classic, decode["ours"] + ours + mapping),
    }
    for name, (a, b) in rows.items():
        print(f"{name:30s}{a:9.2f}{b:9.2f}" + (f"{b / a:9.2f}" if a else ""))
    total, cached = rows["total"][0], best["cached"] / views
    print(f"{'total, from the cache':30s}{total:9.2f}{cached:9.2f}{cached / total:9.2f}")
    print(f"cached: {total / cached:.1f}x as fast as the classic order from files")
    print(f"first visit of a cached picture in a process: {best['first visit']:.2f} ms")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--views", type=int, default=32, help="random views per repeat")
    parser.add_argument("--quick", action="store_true", help="small images, one repeat")
    options = parser.parse_args(arguments)
    shrink = 8 if options.quick else 1
    views, repeats = (2, 1) if options.quick else (options.views, options.repeats)
    full, resize, crop = (
        (h // shrink, w // shrink) for h, w in ((1024, 2048), (512, 1024), (512, 512))
    )
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "image.png"), Path(folder, "label.png")
        for path, pixels in zip(paths, scene(full), strict=True):
            write_png(path, pixels)
        table = id_table({k: k for k in range(CITYSCAPES.num_classes)})
        files = Files(Path(folder), paths[:1], paths[1:], Decoding(CITYSCAPES, table))
        image, label = files.image(0), files.label(0)
        classic = Classic(resize, crop)
        view = View(crop, resize=resize, max_share=MAX_SHARE)
        dataset = FolderDataset(Decoded(files), view=view, colour=ColourJitter())
        cache = Cache(files, Path(folder, "cache"), view, with_labels=True)
        cached = FolderDataset(files, view=view, colour=ColourJitter(), read=cache)
        check_equal(classic, image, label, view, views)
        check_cached(classic, files, cache, views)
        print(f"image file {paths[0].stat().st_size / 1e6:.2f} MB; crops are byte-equal")
        arms: dict[str, Callable[[], object]] = {
            "classic decode": lambda: classic.decode(*paths),
            "decode": lambda: (read_image(paths[0]), read_label(paths[1])),
            "read label": lambda: read_label(paths[1]),
            "label file": lambda: files.label(0),
            "classic": lambda: each(lambda seed: classic.sample(image, label, seed), views),
            "ours": lambda: each(lambda pass_number: dataset[pass_number, 0], views),
            "cached": lambda: each(lambda pass_number: cached[pass_number, 0], views),
            "first visit": lambda: Cache(files, cache.folder, view, with_labels=True)(0),
        }
        report(least_cpu_ms(arms, repeats), views)


if __name__ == "__main__":
    main()
