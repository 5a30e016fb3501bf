"""What label files that do not fit usually are: each error with the way out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfseg.data.classes_file import CHANNELS, NEAREST, WIDEST
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
ON_THE_WAY = 3.0
"""How far a colour that resizing has mixed may be from the line between the two it is made of."""
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
    expected = {int(k) for k in np.flatnonzero(table != INVALID)}
    if min(ids) < 0 or max(ids) > WIDEST:
        return (
            f"ids below 0 or above {WIDEST} cannot be named: store masks with ids from 0, void as "
            f"{IGNORE}"
        )
    return _of_streets(ids, expected) or _of_ones_own(ids, expected, labels.num_classes)


def _of_streets(ids: set[int], expected: set[int]) -> str:
    """Which numbers of a public data set were taken for which others."""
    train_ids = set(range(CITYSCAPES.num_classes)) | {IGNORE}
    if IGNORE not in expected and expected >= set(range(34)) and ids <= train_ids:
        return "these look like Cityscapes trainIds where labelIds are expected"
    if expected == train_ids and ids <= set(range(35)):
        return "these look like Cityscapes labelIds where trainIds are expected"
    if expected == set(VISTAS_IDS) and ids <= set(VISTAS_2_IDS):
        return (
            "these look like labels of Mapillary Vistas 2.0, whose numbers mean other classes; "
            "take those of version 1.2: the download of 2.0 has them in <split>/v1.2/labels"
        )
    return ""


def _of_ones_own(ids: set[int], expected: set[int], classes: int) -> str:
    """What people's own masks usually hold."""
    spaced = _spaced(ids, classes)
    if ids - expected == {WIDEST} and WIDEST not in spaced:
        return (
            f"{WIDEST} is the usual void of 16-bit masks: write `ignore: [{WIDEST}]` into the "
            "classes' YAML"
        )
    if _were_mixed(ids, expected, classes):
        return (
            "so many ids are those of a photograph, of a colour mask stored grey, or of a mask "
            "that was resized with interpolation or saved as JPEG"
        )
    if spaced:
        return (
            f"steps of {spaced[1]} are those of masks made for the eye: if these are the classes "
            f"in their order, write `values: {spaced}` into the classes' YAML"
        )
    from_one = list(range(1, classes + 1))
    if from_one[-1] in ids and ids <= {0, *from_one, IGNORE}:
        void = " and `ignore: [0]`" if 0 in ids else ""
        return f"if ids begin with 1, write `values: {from_one}`{void} into the classes' YAML"
    return ""


def _spaced(ids: set[int], classes: int) -> list[int]:
    """An id for each class, if all are as far apart as in masks made for the eye; empty if not."""
    found = sorted(ids)
    gaps = np.diff(found)
    if found[0] == 0 and len(found) == classes and gaps.min() > 1 and np.ptp(gaps) <= 1:
        return found
    rest = sorted(ids - {IGNORE})
    step = int(np.gcd.reduce(rest)) if rest else 0
    values = [step * k for k in range(classes)]
    return values if step > 1 and rest[-1] <= values[-1] <= WIDEST else []


def _were_mixed(ids: set[int], expected: set[int], classes: int) -> bool:
    """Whether ids were not chosen by a person: very many, or more between those of classes."""
    named = expected - {IGNORE}
    between = [k for k in ids - expected if named and min(named) < k < max(named)]
    return len(ids) > MANY or len(between) > classes


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
    known = list(decoding.palette.classes) if decoding.palette is not None else []
    advice = hint or (
        _mixed(decoding)
        if len(found) > MANY or _lie_between(found, share, [BLACK, *known])
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
        "such are those of JPEG or of resizing with interpolation, which mix colours along "
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
        # Of colours, red alone would rather be 0, 255 or any large number.
        is_small = any(0 < value <= MANY for value in ids)
        are_ids = ids.max() < len(decoding.table) and (decoding.table[ids] != INVALID).all()
        if (is_alone and (are_ids or ids.max() <= MANY)) or (
            k == 0 and are_ids and (is_small or len(np.unique(others)) > MANY)
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


def _lie_between(
    colours: Sequence[Colour], shares: Sequence[float], known: Sequence[Colour]
) -> bool:
    """Whether most pixels have colours that known ones become by JPEG or interpolation.

    Args:
        colours: at most :data:`MANY`, which are not known.
        shares: of the pixels, in [0, 1].
        known: colours of the palette.
    """
    ends, points = np.array(list(dict.fromkeys(known)), float), np.array(colours, float)
    first, second = (ends[k] for k in np.triu_indices(len(ends), 1))
    way = second - first
    offset = points[:, None] - first
    along = ((offset * way).sum(-1) / np.square(way).sum(-1)).clip(0, 1)
    aside = np.linalg.norm(offset - along[..., None] * way, axis=-1).min(1, initial=np.inf)
    away = np.linalg.norm(points[:, None] - ends, axis=-1).min(1)
    return float(np.array(shares)[(aside <= ON_THE_WAY) | (away <= NEAREST)].sum()) > 0.5


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
    # Their order is known to people alone: a line to copy would be a guess.
    return (
        f": `palette: [[r, g, b], ...]`, one for each of {list(labels.classes)} in this order; "
        "those of no class go to 'ignore'"
    )


def _lists(colours: Sequence[Colour]) -> list[list[int]]:
    return [list(colour) for colour in colours]
