"""What label files that do not fit usually are: each error with the way out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfseg.data.classes_file import CHANNELS, WIDEST
from sfseg.data.label_ids import INVALID, VISTAS_2_IDS, VISTAS_IDS
from sfseg.errors import DataError
from sfseg.labels import BUILT_IN, CITYSCAPES, Colour, LabelSpace, distinct_colour
from sfseg.types import IGNORE

if TYPE_CHECKING:
    from sfseg.data.decoding import Decoding

SHOWN = 8
BLACK, VOC_BORDER = (0, 0, 0), (224, 224, 192)
MANY = 64
"""More ids or colours than this were not chosen by a person."""
DEFAULT = (
    "map them with 'values' or 'ignore' in the classes' YAML, or check that data.classes fits the "
    "masks"
)


def ids_error(
    decoding: "Decoding", stored: NDArray[np.integer], where: NDArray[np.bool_], path: Path
) -> DataError:
    """The error for stored ids (H, W) that are no class in the pixels ``where``."""
    values = np.unique(stored[where])
    shown = ", ".join(str(v) for v in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
    labels = decoding.labels
    advice = likely_cause(np.unique(stored).tolist(), decoding.table, labels) or DEFAULT
    return DataError(
        f"{path} has {int(where.sum())} pixels with ids that are no class of {labels.name} "
        f"(0 to {labels.num_classes - 1}, void {IGNORE}): {shown}; {advice}",
        kind="ids out of range",
        path=path,
        pixels=int(where.sum()),
    )


def likely_cause(found: Iterable[int], table: NDArray[np.uint8], labels: LabelSpace) -> str:
    """What ids that do not fit a table usually mean; empty when nothing is usual about them.

    Args:
        found: all ids of the file.
        table: see :func:`sfseg.data.label_ids.id_table`.
        labels: classes of the task.
    """
    ids = set(found)
    train_ids = set(range(CITYSCAPES.num_classes)) | {IGNORE}
    expected = {int(k) for k in np.flatnonzero(table != INVALID)}
    if IGNORE not in expected and expected >= set(range(34)) and ids <= train_ids:
        return "these look like Cityscapes trainIds where labelIds are expected"
    if expected == train_ids and ids <= set(range(35)):
        return "these look like Cityscapes labelIds where trainIds are expected"
    if expected == set(VISTAS_IDS) and ids <= set(VISTAS_2_IDS):
        return (
            "these look like labels of Mapillary Vistas 2.0, whose numbers mean other classes; "
            "take those of version 1.2: the download of 2.0 has them in <split>/v1.2/labels"
        )
    if ids - expected == {WIDEST}:
        return (
            f"{WIDEST} is the usual void of 16-bit masks: write `ignore: [{WIDEST}]` into the "
            "classes' YAML"
        )
    if len(ids) > MANY:
        return (
            "so many ids are those of a photograph, of a colour mask stored grey, or of a mask "
            "that was resized with interpolation or saved as JPEG"
        )
    step = int(np.gcd.reduce(sorted(ids - {IGNORE})))
    if step > 1 and max(ids - {IGNORE}) // step < labels.num_classes:
        values = [step * k for k in range(labels.num_classes)]
        return (
            f"all are multiples of {step}, as in masks made for the eye: if these are the classes "
            f"in their order, write `values: {values}` into the classes' YAML"
        )
    return ""


def colours_error(
    decoding: "Decoding",
    rgb: NDArray[np.integer],
    path: Path,
    unknown: NDArray[np.bool_] | None = None,
) -> DataError:
    """The error for a label file of colours.

    Args:
        decoding: how it is read.
        rgb: (H, W, 3).
        path: the file.
        unknown: (H, W) pixels whose colours the palette lacks; None where there is no palette, or
            the file is of no use.
    """
    pixels = rgb.shape[0] * rgb.shape[1]
    if decoding.rgb == "refuse":
        return DataError(
            f"{path} has {pixels} pixels of colours where class ids are expected; it looks like a "
            "picture of the labels, take the file of ids",
            kind="colours for ids",
            path=path,
            pixels=pixels,
        )
    hint = _channel_of_ids(decoding, rgb)
    if rgb.dtype != np.uint8:
        return DataError(
            f"{path} is an RGB mask of {rgb.dtype}; colours must have 8 bits a channel"
            f"{f'; {hint}' if hint else ''}",
            kind="unknown colours",
            path=path,
        )
    if unknown is None:
        return _without_palette(decoding, rgb, path, hint)
    found, share = _colours(rgb[unknown])
    advice = hint or (
        _mixed(decoding)
        if len(found) > MANY
        else "add them to the classes' palette, to 'ignore', or store ids (0, 1, ...)"
    )
    return DataError(
        f"{path} is an RGB mask with {int(unknown.sum())} pixels of {len(found):,} colours that "
        f"the palette lacks, {_listed(found, share)}; {advice}",
        kind="unknown colours",
        path=path,
        pixels=int(unknown.sum()),
    )


def _without_palette(
    decoding: "Decoding", rgb: NDArray[np.integer], path: Path, hint: str
) -> DataError:
    found, share = _colours(rgb.reshape(-1, 3))
    if not hint and len(found) > MANY:
        hint = f"{_mixed(decoding)}, with a palette"
    if not hint:
        hint = f"say there which class has which colour{_ready_lines(found, decoding.labels)}"
    return DataError(
        f"{path} is an RGB mask of {len(found):,} colours, but {_where(decoding)} has no "
        f"'palette'; found {_listed(found, share)}; {hint}",
        kind="colours without a palette",
        path=path,
        pixels=int(rgb.shape[0] * rgb.shape[1]),
    )


def _mixed(decoding: "Decoding") -> str:
    return (
        "so many are those of JPEG or of resizing with interpolation, which mix colours along "
        "edges: take the original masks, or read each as the nearest colour of the palette with "
        f"`nearest: true` in {_where(decoding)}"
    )


def _where(decoding: "Decoding") -> str:
    return decoding.where or "the classes' YAML"


def _channel_of_ids(decoding: "Decoding", rgb: NDArray[np.integer]) -> str:
    """The channel that seems to hold ids, as advice; empty where none does."""
    for k, name in enumerate(CHANNELS):
        ids, others = np.unique(rgb[:, :, k]), np.delete(rgb, k, axis=2)
        is_alone = not others.any()
        are_ids = ids.max() < len(decoding.table) and (decoding.table[ids] != INVALID).all()
        if (is_alone and (are_ids or ids.max() <= MANY)) or (
            k == 0 and are_ids and len(np.unique(others)) > MANY
        ):
            rest = " and ".join(other for other in CHANNELS if other != name)
            state = "are 0 everywhere" if is_alone else "hold other numbers"
            kind = "that are ids of classes" if are_ids else f"up to {ids.max()}"
            return (
                f"{name} holds {len(ids)} numbers {kind}, {rest} {state}: if the ids lie there, "
                f"write `channel: {name}` into {_where(decoding)}"
            )
    return ""


def _colours(rgb: NDArray[np.integer]) -> tuple[list[Colour], list[float]]:
    """Colours of pixels (N, 3), the most frequent first, and their shares in [0, 1]."""
    codes = rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found[order]]
    return colours, (counts[order] / len(codes)).tolist()


def _listed(colours: Sequence[Colour], shares: Sequence[float]) -> str:
    shown = [f"{c} {100 * s:.1f} %" for c, s in zip(colours, shares, strict=True)][:SHOWN]
    return ", ".join(shown) + (", ..." if len(colours) > SHOWN else "")


def _ready_lines(found: Sequence[Colour], labels: LabelSpace) -> str:
    """A palette for the classes' file, and what its order is."""
    voc = [BLACK, *(distinct_colour(k) for k in range(labels.num_classes - 1))]
    if set(found) <= {*voc, VOC_BORDER}:
        ignored = f" and `ignore: {[list(VOC_BORDER)]}`" if VOC_BORDER in found else ""
        return f"; these are PASCAL VOC's, in its order: `palette: {_lists(voc)}`{ignored}"
    for space in BUILT_IN.values():
        names = dict(zip(space.classes, space.palette, strict=True))
        if set(labels.classes) <= set(names) and set(found) <= {BLACK, *space.palette}:
            colours = [names[name] for name in labels.classes]
            return f"; these are those of {space.name}: `palette: {_lists(colours)}`"
    order = f", in the order of {list(labels.classes)}; those of no class go to 'ignore'"
    return f"{order}: `palette: {_lists(found[:SHOWN])}`"


def _lists(colours: Sequence[Colour]) -> list[list[int]]:
    return [list(colour) for colour in colours]
