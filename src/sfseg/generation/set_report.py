"""A page on a generated set: what it shows, how it differs from the target, what comes twice."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.check import listing, on_all_processors, spread
from sfseg.data.geometry import Image, Size, resize_image
from sfseg.data.images import ValueRange, read_image
from sfseg.data.inputs import find_images
from sfseg.data.replacement import is_black
from sfseg.errors import DataError
from sfseg.generation.image_set import read_manifest
from sfseg.generation.near_duplicates import CLOSE, Pair, Thumbnails, near_duplicates, thumbnail
from sfseg.report.drawing import Pixels
from sfseg.report.html import comparison, facts, figures, page, paragraph
from sfseg.types import size_text

SHOWN = 24
"""Images of a contact sheet."""
PAIRS = 12
"""Pairs of near-duplicates that are shown; all are counted."""
WIDEST = 240
"""Of a picture on the page, in pixels."""


@dataclass(frozen=True)
class Set:
    """Images, read when they are needed.

    paths: of the images that count.
    base: the folder below which all of them are.
    value_range: which stored values become 0 to 255, see :func:`read_image`.
    black: images that are left out.
    """

    paths: Sequence[Path]
    base: Path
    value_range: ValueRange = None
    black: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image:
        """(H, W, 3) uint8 RGB."""
        return read_image(self.paths[index], value_range=self.value_range)

    def name(self, index: int) -> str:
        """Below the folder."""
        return self.paths[index].relative_to(self.base).as_posix()

    def cut(self, index: int, size: Size) -> Image:
        """The largest part of an image, in its middle, that has a size's proportions, at that size.

        A photograph that is twice as wide as high would otherwise be compared squeezed.
        """
        image = self.image(index)
        height, width = image.shape[:2]
        scale = min(height / size[0], width / size[1])
        rows, columns = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
        top, left = (height - rows) // 2, (width - columns) // 2
        return resize_image(image[top : top + rows, left : left + columns], size)


@dataclass
class Findings:
    """What was found of a generated set beside its target.

    generated, target: the sets.
    size: of most generated images, (height, width) in pixels.
    sizes: how many have which.
    twins: near-duplicates within the set; copies: of images of the target.
    distances: FID and others, or in words why there are none.
    shares: class names with their shares of the pixels in both sets, as a segmenter sees them.
    """

    generated: Set
    target: Set
    size: Size
    sizes: Mapping[str, int]
    twins: Sequence[Pair]
    copies: Sequence[Pair]
    distances: Mapping[str, float] | str = ""
    shares: Sequence[tuple[str, float, float]] = field(default_factory=list)


def open_set(sources: Sequence[str], argument: str, value_range: ValueRange = None) -> Set:
    """The images of folders, files and patterns.

    Raises:
        DataError: one is not there, or there are no images.
    """
    paths = find_images(sources, argument)
    if len(sources) == 1 and (folder := Path(sources[0])).is_dir():
        return Set(paths, folder, value_range)
    paths = [path.absolute() for path in paths]
    return Set(paths, Path(os.path.commonpath([path.parent for path in paths])), value_range)


def look_at(generated: Set, target: Set) -> Findings:
    """Read all images once: sizes, black ones, which are left out, and near-duplicates.

    Raises:
        DataError: images that cannot be read, all of which are named, or all are black.
    """

    def look(index: int) -> tuple[bool, Size, Any]:
        image = generated.image(index)
        return is_black(image), (image.shape[0], image.shape[1]), thumbnail(image)

    looks = _of_all(look, generated, "images")
    kept = [index for index, (black, _, _) in enumerate(looks) if not black]
    if not kept:
        raise DataError(
            f"images={generated.base}: all {len(looks)} images are black; generate others into "
            "another folder, with safety_checker=false or, where that is set, dtype=float32"
        )
    sizes = Counter(looks[index][1] for index in kept)
    size = sizes.most_common(1)[0][0]
    own = Set([generated.paths[k] for k in kept], generated.base, black=len(looks) - len(kept))
    thumbnails: Thumbnails = np.stack([looks[index][2] for index in kept])
    others: Thumbnails = np.stack(
        _of_all(lambda k: thumbnail(target.cut(k, size)), target, "target")
    )
    return Findings(
        own, target, size, {size_text(s): number for s, number in sizes.most_common()},
        near_duplicates(thumbnails), near_duplicates(thumbnails, others),
    )  # fmt: skip


def _of_all(look: Callable[[int], Any], images: Set, argument: str) -> list[Any]:
    """What a look at each image gives.

    Raises:
        DataError: names all that cannot be read.
    """

    def attempt(index: int) -> Any:
        try:
            return look(index)
        except DataError as error:
            return error

    looks = list(on_all_processors(attempt, range(len(images))))
    if bad := [str(each) for each in looks if isinstance(each, DataError)]:
        raise DataError(
            f"{argument}: {len(bad)} of {len(images)} images cannot be read; restore them, or take "
            f"them out of the folder:{listing(bad)}"
        )
    return looks


def class_shares(
    predict: Callable[[Image, Path], Sequence[Pixels]],
    count: Callable[[Pixels], Any],
    images: Set,
    number: int | None,
) -> NDArray[np.float64]:
    """(K,) shares of the pixels of some images, evenly spread over a set, that are of each class.

    Args:
        predict: class ids of an image, and whatever else.
        count: (K,) pixels of each class among class ids.
        images: the set.
        number: of images that are looked at; None for all.
    """
    chosen = spread(len(images), number)
    total = sum(count(predict(images.image(k), images.paths[k])[0]) for k in chosen)
    found: NDArray[np.float64] = np.asarray(total, np.float64)
    return found / max(1.0, float(found.sum()))


def write_page(found: Findings) -> str:
    """The report as HTML, which needs no other file."""
    manifest = read_manifest(found.generated.base) or {}
    prompts = {
        str(entry.get("file")): str(entry.get("prompt")) for entry in manifest.get("images", [])
    }

    def caption(index: int) -> str:
        name = found.generated.name(index)
        return f"{name}: {prompts[name]}" if name in prompts else name

    generated, target = found.generated, found.target
    return page(
        f"Generated images: {generated.base.name}",
        [
            ("The set", _summary(found, manifest)),
            ("Some of its images", _sheet(generated, caption)),
            ("Some of the target's", _sheet(target, target.name)),
            ("Distance to the target", _distances(found)),
            ("Classes, as a segmenter sees them", _shares(found)),
            ("Near-duplicates", _pairs(found.twins, generated, generated, caption, "")),
            ("Copies of the target",
             _pairs(found.copies, generated, target, caption, "the target's ")),
        ],
    )  # fmt: skip


def _summary(found: Findings, manifest: Mapping[str, Any]) -> str:
    dropped = sum("dropped" in entry for entry in manifest.get("images", []))
    entries: list[tuple[str, object]] = [
        ("folder", found.generated.base),
        ("images", len(found.generated)),
        ("black images left out", found.generated.black + dropped),
        ("width x height", ", ".join(f"{size} ({n})" for size, n in found.sizes.items())),
        ("images of the target", f"{len(found.target)} of {found.target.base}"),
    ]
    keys = ("model", "licence", "scheduler", "steps", "guidance", "seed", "dtype", "generator")
    entries += [(key, manifest[key]) for key in keys if key in manifest]
    if prompts := manifest.get("prompts"):
        entries.append((f"prompts ({len(prompts)})", "; ".join(prompts)))
    return facts(entries)


def _sheet(images: Set, caption: Callable[[int], str]) -> str:
    chosen = spread(len(images), SHOWN)
    return figures([(caption(index), _small(images.image(index))) for index in chosen])


def _small(image: Image) -> Pixels:
    height, width = image.shape[:2]
    scale = WIDEST / width
    if scale >= 1:
        return image
    size = WIDEST, max(1, round(scale * height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _distances(found: Findings) -> str:
    if isinstance(found.distances, str):
        return paragraph(found.distances)
    note = (
        f"Of {len(found.generated)} generated images and {len(found.target)} of the target, whose "
        "middle is cut to the proportions of the generated ones. FID is biased upwards for few "
        "images: compare sets of equal numbers."
    )
    entries = [(name, f"{value:.4g}") for name, value in found.distances.items()]
    return facts(entries) + paragraph(note)


def _shares(found: Findings) -> str:
    if not found.shares:
        return paragraph("Set segmenter=<a run's checkpoint> to see them.")
    longest = max(max(one, two) for _, one, two in found.shares) or 1.0
    rows = [
        ([name, f"{100 * one:.2f}", f"{100 * two:.2f}", f"{one / two:.2f}" if two else "-"],
         one / longest, two / longest)
        for name, one, two in found.shares
    ]  # fmt: skip
    header = ["class", "generated, %", "target, %", "ratio"]
    return comparison(header, ("generated", "target"), rows)


def _pairs(
    pairs: Sequence[Pair], images: Set, others: Set, caption: Callable[[int], str], whose: str
) -> str:
    text = f"Pairs whose thumbnails differ by less than {CLOSE:g} of 255: {len(pairs)}."
    if len(pairs) > PAIRS:
        text += f" The closest {PAIRS}:"
    shown = []
    for pair in pairs[:PAIRS]:
        shown.append((caption(pair.first), _small(images.image(pair.first))))
        name = f"{whose}{others.name(pair.second)}, differs by {pair.difference:.1f}"
        shown.append((name, _small(others.image(pair.second))))
    return paragraph(text) + figures(shown)
