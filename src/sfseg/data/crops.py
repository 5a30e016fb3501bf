"""Crops that follow the size of the pictures, and a word about those that do not."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from sfseg.data.check import spread
from sfseg.data.folder import Scenes
from sfseg.data.geometry import Size, View, shown_share
from sfseg.errors import ConfigError, DataError
from sfseg.types import size_text

log = logging.getLogger(__name__)

LARGEST = 512
"""Pixels of a side of a crop that follows the pictures, where these are larger."""
SAMPLED = 50
"""Pictures of a set whose headers are read, evenly spread."""
PADDED = 1 / 3
"""Share of a crop, on average, that may lie outside of the pictures without a word."""
SQUEEZED = 1.5
"""How many times wider, or narrower, resizing may make the pictures of a set without a word."""


def fitted_crop(scenes: Scenes, resize: Size | None, left_out: Collection[int] = ()) -> Size:
    """The largest crop that most pictures of a set fill, at most :data:`LARGEST` a side.

    Each side is the median of a sample of the set, so that a few tiny pictures do not decide.

    Args:
        scenes: the set.
        resize: size (height, width) of all pictures before cropping; None is their own.
        left_out: positions of scenes that cannot be used.
    """
    sizes = [resize] if resize is not None else sampled_sizes(scenes, left_out)
    if not sizes:
        return LARGEST, LARGEST
    height, width = (sorted(side)[(len(sizes) - 1) // 2] for side in zip(*sizes, strict=True))
    return min(LARGEST, int(height)), min(LARGEST, int(width))


def fitted_view(view: View, scenes: Scenes, name: str, left_out: Collection[int] = ()) -> View:
    """A view with a crop, which follows the pictures where the view has none.

    A crop, given or followed, of which a good part would show nothing is said in the log, and so is
    a size of other proportions than the pictures'.

    Args:
        view: how crops of the set are drawn.
        scenes: the set.
        name: its domain, for messages.
        left_out: positions of scenes that cannot be used.

    Raises:
        ConfigError: no view.
    """
    if not isinstance(view, View):
        raise ConfigError(
            f"data.{name}_view must be a view, got {view}; change single values of it, such as "
            f"data.{name}_view.crop=[height,width]"
        )
    if view.crop is None:
        view = replace(view, crop=fitted_crop(scenes, view.resize, left_out))
    sizes = sampled_sizes(scenes, left_out)
    _warn_if_squeezed(view, sizes, name)
    outside = 1 - float(np.mean([shown_share(view, size) for size in sizes])) if sizes else 0.0
    if outside > PADDED and view.crop is not None:
        fits = fitted_crop(scenes, view.resize, left_out)
        log.warning(
            "%s: crops of %dx%d pixels (width x height) are larger than the pictures; on average "
            "%.0f %% of a crop lies outside of its picture and is left out or padding; "
            "data.%s=[%d,%d] fits them (height, width)",
            name, view.crop[1], view.crop[0], 100 * outside,
            "source_view.crop" if name == "source" else "target_crop", *fits,
        )  # fmt: skip
    return view


def _warn_if_squeezed(view: View, sizes: Sequence[Size], name: str) -> None:
    if view.resize is None or not sizes:
        return
    height, width = view.resize
    factor = float(np.median([width / height * own[0] / own[1] for own in sizes]))
    if max(factor, 1 / factor) > SQUEEZED:
        log.warning(
            "%s: pictures such as one of %s are resized to %s pixels (width x height), which makes "
            "them %.1f times %s; data.%s_view.resize=null keeps their own size",
            name, size_text(sizes[0]), size_text(view.resize), max(factor, 1 / factor),
            "wider" if factor > 1 else "narrower", name,
        )  # fmt: skip


def sampled_sizes(scenes: Scenes, left_out: Collection[int] = ()) -> Sequence[Size]:
    """Sizes (height, width) of some pictures, from their headers alone."""
    sizes = []
    for index in spread(len(scenes), SAMPLED):
        if index in left_out:
            continue
        try:
            sizes.append(scenes.size(index))
        except DataError as error:
            # The check of the set says it too, or has been told to read fewer of its files.
            log.debug("its size is not known: %s", error)
    return sizes
