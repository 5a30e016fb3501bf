"""Scale, crop and flip with cv2, and the way back to the full image.

A :class:`Geometry` holds whole numbers only, so that a pixel of a crop and the pixel of the
full image it shows are matched exactly in both directions. Labels are never resized and then
cropped: the rows and columns of the crop are looked up in the full label at once.

Crops show nothing but the image. What makes those of a batch one size, where some images are
smaller than the crop, is put below them and to their right once they are stacked.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.types import IGNORE, size_text

Size = tuple[int, int]
Image = NDArray[np.uint8]
"""(H, W, 3) RGB or (H, W) class ids."""

PAD_COLOUR = (124, 116, 104)
"""Of what pads the images of a batch: the ImageNet mean, which most backbones take from pixels."""
CROP_TRIES = 10
FACTORS = 16
"""Of a range of random factors, those over which a mean is taken."""


class Geometry(NamedTuple):
    """Where a crop lies: in pixels of the scaled image, with the sizes before and after.

    full_*: size of the file; scaled_*: size after resizing; top, left, height, width: the crop,
    which lies in the scaled image; flip: 1 if mirrored left to right after cropping.
    """

    full_height: int
    full_width: int
    scaled_height: int
    scaled_width: int
    top: int
    left: int
    height: int
    width: int
    flip: int

    @classmethod
    def whole(cls, full: Size, scaled: Size | None = None) -> "Geometry":
        """The whole image, resized to ``scaled``."""
        height, width = scaled or full
        return cls(*full, height, width, 0, 0, height, width, 0)


@dataclass(frozen=True)
class View:
    """How training crops are drawn from an image.

    Args:
        crop: size of the crop in pixels; an image that has fewer, after resizing, is shown whole
            along that side. None follows the pictures, see :mod:`sfseg.data.crops`.
        resize: size of the image before cropping; None keeps the file's own.
        ratio: range of a random factor on top of that size.
        flip: probability of a mirrored crop.
        max_share: a crop whose most frequent class covers more than this share of its labelled
            pixels is drawn again, up to ten times (mmsegmentation's ``cat_max_ratio``); 1
            takes the first.
    """

    crop: Size | None
    resize: Size | None = None
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    max_share: float = 1.0

    def __post_init__(self) -> None:
        for name, size in (("crop", self.crop), ("resize", self.resize)):
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"{name} must be (height, width) in pixels, got {size}")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ValueError(f"ratio must be a range of positive factors, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability in [0, 1], got {self.flip}")
        if not 0 < self.max_share <= 1:
            raise ValueError(f"max_share must be in (0, 1], got {self.max_share}")

    def __str__(self) -> str:
        crop = "crops" if self.crop is None else f"crops of {size_text(self.crop)}"
        size = "their own size" if self.resize is None else size_text(self.resize)
        low, high = self.ratio
        factor = "" if low == high == 1 else f"{low:g} to {high:g} times "
        return f"{crop} from pictures at {factor}{size}"

    def fixed_size(self, full: Size) -> Size | None:
        """The size before cropping, where it is the same in every draw."""
        low, high = self.ratio
        return self.scaled(full, low) if low == high else None

    def draw(
        self, label: Image | None, rng: np.random.Generator, full: Size | None = None
    ) -> Geometry:
        """A random crop of an image.

        Args:
            label: its label (H, W), in which crops of several classes are looked for; None
                where it has none.
            rng: where every choice comes from.
            full: size of the image's file, where that is not the label's.
        """
        if full is None:
            assert label is not None
            full = (label.shape[0], label.shape[1])
        assert self.crop is not None, "it follows the pictures of a set that has been opened"
        low, high = self.ratio
        scaled = self.scaled(full, rng.uniform(low, high) if low < high else low)
        flip = int(rng.random() < self.flip)
        size = (min(self.crop[0], scaled[0]), min(self.crop[1], scaled[1]))
        for _ in range(CROP_TRIES):
            top = int(rng.integers(scaled[0] - size[0] + 1))
            left = int(rng.integers(scaled[1] - size[1] + 1))
            geometry = Geometry(*full, *scaled, top, left, *size, flip)
            if label is None or self.max_share == 1:
                break
            if largest_share(crop_label(label, geometry)) < self.max_share:
                break
        return geometry

    def scaled(self, full: Size, factor: float) -> Size:
        """The size before cropping of an image whose file has the size ``full``."""
        height, width = self.resize or full
        return max(1, round(height * factor)), max(1, round(width * factor))


def shown_share(view: View, full: Size) -> float:
    """Mean share of a crop, in [0, 1], that an image fills, over the range of its factor.

    The crop has a size; ``full`` is that of the image's file.
    """
    assert view.crop is not None
    low, high = view.ratio
    shares = []
    for factor in np.linspace(low, high, FACTORS):
        height, width = view.scaled(full, float(factor))
        shares.append(min(1, height / view.crop[0]) * min(1, width / view.crop[1]))
    return float(np.mean(shares))


SizeRule = Size | int | None
"""(height, width); or the length of the shorter side; or None, the file's own size."""


@dataclass(frozen=True)
class EvalView:
    """Sizes of whole images in evaluation.

    Args:
        size: what the network sees.
        label_size: what its predictions are scored at; labels are resized to it, nearest
            neighbour. Scores at different sizes cannot be compared.
    """

    size: SizeRule = None
    label_size: SizeRule = None

    def __post_init__(self) -> None:
        for name, rule in (("eval_size", self.size), ("eval_label_size", self.label_size)):
            is_number = isinstance(rule, int | float)
            sides = (rule, rule) if isinstance(rule, int | float) else rule or (1, 1)
            if len(sides) != 2 or min(sides) < 1 or (is_number and not isinstance(rule, int)):
                raise ValueError(
                    f"{name} must be [height, width], the length of the shorter side, or null, "
                    f"got {rule}"
                )

    def __str__(self) -> str:
        return f"input {rule_text(self.size)}, labels {rule_text(self.label_size)}"


def size_by(rule: SizeRule, full: Size) -> Size:
    """The size that an image of ``full`` pixels has under a rule."""
    if rule is None:
        return full
    if isinstance(rule, int):
        factor = rule / min(full)
        return round(full[0] * factor), round(full[1] * factor)
    height, width = rule
    return int(height), int(width)


def fitting_size(rule: SizeRule, full: Size) -> Size:
    """As :func:`size_by`, but the picture keeps its proportions.

    Of ``[height, width]`` it takes the number of pixels, so that one of other proportions has as
    many, and one of the same is of that size.
    """
    if rule is None or isinstance(rule, int):
        return size_by(rule, full)
    factor = math.sqrt(rule[0] * rule[1] / (full[0] * full[1]))
    return max(1, round(full[0] * factor)), max(1, round(full[1] * factor))


def rule_text(rule: SizeRule) -> str:
    """A rule in words."""
    if rule is None:
        return "at their own size"
    return f"shorter side {rule}" if isinstance(rule, int) else size_text(rule)


def largest_share(label: Image) -> float:
    """Share of the most frequent class among the labelled pixels; 0 when there are none."""
    counts = cv2.calcHist([np.ascontiguousarray(label)], [0], None, [IGNORE], [0, IGNORE])
    total = float(counts.sum())
    return float(counts.max()) / total if total else 0.0


def crop_image(image: Image, geometry: Geometry) -> Image:
    """Bilinear resize, crop and flip of an (H, W, 3) image.

    An image that has been resized to the scaled size already is only cropped.
    """
    g = geometry
    image = resize_image(image, (g.scaled_height, g.scaled_width))
    image = image[g.top : g.top + g.height, g.left : g.left + g.width]
    return _as_uint8(cv2.flip(image, 1)) if g.flip else image


def crop_label(label: Image, geometry: Geometry) -> Image:
    """Nearest-neighbour counterpart of :func:`crop_image`."""
    g = geometry
    height, width = label.shape
    rows = _look_up(np.arange(g.top, g.top + g.height), g.scaled_height, height)
    columns = _look_up(np.arange(g.left, g.left + g.width), g.scaled_width, width)
    cropped = label[rows].take(columns, axis=1)
    return _as_uint8(cv2.flip(cropped, 1)) if g.flip else cropped


def resize_image(image: Image, size: Size) -> Image:
    """Bilinear resize of an (H, W, 3) image; the same one if it has that size."""
    if image.shape[:2] == size:
        return image
    return _as_uint8(cv2.resize(image, (size[1], size[0])))


def resize_label(label: Image, size: Size) -> Image:
    """Nearest neighbour by pixel centres; the same one if it has that size."""
    if label.shape == size:
        return label
    return crop_label(label, Geometry.whole((label.shape[0], label.shape[1]), size))


def pad_label(label: Image, size: Size) -> Image:
    """A label map (H, W) with IGNORE below it and to its right, so that it has a size."""
    if label.shape == size:
        return label
    below, right = size[0] - label.shape[0], size[1] - label.shape[1]
    return np.pad(label, ((0, below), (0, right)), constant_values=IGNORE)


def restore_label(cropped: Image, geometry: Geometry, full: Image) -> None:
    """Write a label map of the crop into ``full`` (full_height, full_width), in place.

    Every full-image pixel that the crop shows takes the value of the crop pixel at its place;
    pixels outside the crop keep theirs. A crop may reach past the scaled image, as those of earlier
    versions did: what it has there is not looked at.
    """
    g = geometry
    if cropped.shape != (g.height, g.width) or full.shape != (g.full_height, g.full_width):
        raise ValueError(
            f"cropped and full must have the sizes {(g.height, g.width)} and "
            f"{(g.full_height, g.full_width)} of the geometry, got {cropped.shape}, {full.shape}"
        )
    if g.flip:
        cropped = cropped[:, ::-1]
    rows = _look_up(np.arange(g.full_height), g.full_height, g.scaled_height) - g.top
    columns = _look_up(np.arange(g.full_width), g.full_width, g.scaled_width) - g.left
    shown_rows = np.flatnonzero((rows >= 0) & (rows < g.height))
    shown_columns = np.flatnonzero((columns >= 0) & (columns < g.width))
    full[shown_rows[:, None], shown_columns] = cropped[
        rows[shown_rows][:, None], columns[shown_columns]
    ]


def _look_up(positions: NDArray[np.int64], size: int, other: int) -> NDArray[np.int64]:
    """The pixel of an axis of ``other`` pixels under each pixel centre of an axis of ``size``."""
    return (2 * positions + 1) * other // (2 * size)


def _as_uint8(image: object) -> Image:
    return np.asarray(image, dtype=np.uint8)
