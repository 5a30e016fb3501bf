"""One picture of scenes of all sets of a task, with their labels, for people to look at."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sfseg.data.check import count_classes
from sfseg.data.folder import Scenes, label_of
from sfseg.data.geometry import resize_image, resize_label
from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.report.drawing import Pixels, legend, overlay, sheet, write_names, write_png
from sfseg.types import size_text

log = logging.getLogger(__name__)

DOMAINS, PARTS = ("source", "target"), ("train", "eval")
TILE = 480
"""Width of a drawn scene in pixels."""
HEIGHT = TILE * 3 // 4
"""Largest height of one; those of a street are half as high as wide."""
DARK = (24, 24, 24)

Sets = dict[str, Scenes | DataError]
"""Sets of a task by their names, or why one cannot be opened."""


class Scene(NamedTuple):
    """A scene as it is drawn: a caption, its image and its label, both (H, W, 3)."""

    caption: str
    image: Pixels
    label: Pixels


def draw(
    path: Path,
    labels: LabelSpace,
    sets: Sets,
    chosen: Mapping[str, Sequence[int]],
    opacity: float,
    *,
    with_names: bool = False,
) -> None:
    """Write one picture of scenes of all sets that could be opened, if there are any.

    Args:
        path: of the picture.
        labels: of the task, for the legend.
        sets: by their names.
        chosen: positions of scenes of each set; those beyond its end do not count.
        opacity: of the class colours over the image.
        with_names: write the names of the classes on them too.
    """
    drawn = {
        name: [
            drawn_scene(scenes, k, opacity, with_names=with_names)
            for k in chosen[name]
            if k < len(scenes)
        ]
        for name, scenes in sets.items()
        if not isinstance(scenes, DataError)
    }
    if any(drawn.values()):
        write_png(path, contact_sheet(drawn, labels))
        log.info("pictures: %s", path)


def drawn_scene(scenes: Scenes, index: int, opacity: float, *, with_names: bool = False) -> Scene:
    """A scene, no larger than its place; one that cannot be used says so."""
    caption = scenes.name(index)
    small, shown = _note("unusable"), _note("no label")
    try:
        image = scenes.image(index)
        full = (image.shape[0], image.shape[1])
        factor = min(TILE / full[1], HEIGHT / full[0])
        size = max(1, round(factor * full[0])), max(1, round(factor * full[1]))
        caption, small = f"{caption}  {size_text(full)}", resize_image(image, size)
        if scenes.has_labels:
            label = label_of(scenes, index, image)
            caption = f"{caption}:  {_contents(label, scenes.labels)}"
            seen = resize_label(label, size)
            shown = overlay(small, seen, scenes.labels.palette, opacity)
            if with_names:
                write_names(shown, seen, scenes.labels.classes)
    except DataError as error:
        log.warning("not drawn: %s", error)
        shown = _note("unusable")
    return Scene(caption, small, shown)


def _contents(label: Pixels, labels: LabelSpace) -> str:
    """What a label holds, the largest share first."""
    counts = count_classes(label, labels.num_classes)
    shares = [(int(counts[k]), labels.classes[k]) for k in np.argsort(-counts, kind="stable")]
    shares.append((label.size - int(counts.sum()), "void"))
    percent = [(100 * pixels / label.size, name) for pixels, name in shares if pixels]
    return ", ".join(f"{name} {p:.0f} %" if p >= 0.5 else f"{name} <1 %" for p, name in percent)


def contact_sheet(drawn: Mapping[str, Sequence[Scene]], labels: LabelSpace) -> Pixels:
    """The scenes of the source beside those of the target, or of sets by name, with a legend."""
    tiles = [t for scenes in drawn.values() for s in scenes for t in (s.image, s.label)]
    height = max(tile.shape[0] for tile in tiles)
    nothing = Scene("", _note(""), _note(""))
    found = dict.fromkeys(name.rpartition("_")[0] for name in drawn)
    domains = sorted(found, key=lambda domain: (*DOMAINS, domain).index(domain))
    sides = []
    for domain in domains:
        rows = []
        for part in PARTS:
            own = drawn.get(f"{domain}_{part}", [])
            longest = max(len(drawn.get(f"{d}_{part}", [])) for d in domains)
            for scene in [*own, *[nothing] * (longest - len(own))]:
                tiles = [_framed(tile, height) for tile in (scene.image, scene.label)]
                rows.append((f"{part}   {scene.caption}" if scene.caption else "", tiles))
        sides.append(sheet(rows, [f"{domain}: image", "label"]))
    picture = np.hstack(sides)
    return np.vstack([picture, legend(labels.classes, labels.palette, picture.shape[1])])


def _framed(tile: Pixels, height: int) -> Pixels:
    """The tile in the middle of its place."""
    frame = np.full((height, TILE, 3), DARK, np.uint8)
    top, left = (height - tile.shape[0]) // 2, (TILE - tile.shape[1]) // 2
    frame[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return frame


def _note(text: str) -> Pixels:
    return legend([text], [DARK], 130)
