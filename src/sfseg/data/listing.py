"""From folders to :class:`Files`: the steps that layouts share."""

from collections.abc import Iterable
from pathlib import Path

from sfseg.data.classes_file import load_label_space
from sfseg.data.decoding import Decoding, Rgb
from sfseg.data.files import Files
from sfseg.data.label_ids import IdsByName, named_table
from sfseg.data.paths import Limits, PathList, Root
from sfseg.errors import DataError


def existing(path: Path, argument: str) -> Path:
    """The path of a folder.

    Raises:
        DataError: there is none.
    """
    if not path.is_dir():
        raise DataError(f"folder {path} does not exist; point {argument} at the data")
    return path


def images_below(
    base: Path, folder: str, argument: str, limits: Limits | None, ending: str = ""
) -> PathList:
    """Images below a folder of ``base`` whose names end like this, sorted by path."""
    names = Root(base, limits or Limits()).images(existing(base / folder, argument))
    return PathList(base, (name for name in names if name.endswith(ending)))


def masks_of(images: PathList, *replacements: tuple[str, str]) -> PathList:
    """The images' names with parts replaced: the first match of a folder, the last otherwise."""

    def mask_of(name: str) -> str:
        for before, after in replacements:
            is_folder = before.endswith("/")
            front, found, back = name.partition(before) if is_folder else name.rpartition(before)
            name = front + (after if found else "") + back
        return name

    return PathList(images.root, map(mask_of, images.names()))


def street_files(
    images: PathList,
    masks: PathList | None,
    classes: str | Path,
    ids: IdsByName,
    *,
    ignored: Iterable[int],
    limits: Limits | None,
    official: int | None = None,
    rgb: Rgb = "refuse",
    fit_labels: bool = False,
) -> Files:
    """Files whose ids have names; see :class:`Files`, :class:`Decoding` and :func:`named_table`."""
    labels = load_label_space(classes)
    decoding = Decoding(labels, named_table(labels, ids, ignored=ignored), rgb)
    return Files(
        images.root,
        images,
        masks,
        decoding,
        limits=limits,
        fit_labels=fit_labels,
        official=official,
    )
