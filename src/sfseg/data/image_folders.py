"""Images of several folders and file lists as one set, without labels."""

import os
from collections.abc import Sequence
from pathlib import Path

from sfseg.data.decoding import Decoding
from sfseg.data.files import Files, Paths
from sfseg.data.label_ids import id_table
from sfseg.data.paths import Limits, PathList, Root, read_list
from sfseg.errors import DataError
from sfseg.labels import LabelSpace


class ImageFolders(Files):
    """Unlabelled images of one or several folders.

    Where there are several, an image's name begins with its folder's, as many of its last parts as
    tell the folders apart: ``rio/a.png`` and ``rome/a.png``. So names are distinct, and stay what
    they are when all folders are moved together.

    Args:
        folders: absolute paths of those that hold the images.
        images: absolute paths, each below a folder.
        labels: classes of the task.
        limits: what may be opened; no link may lead out of its image's folder.
        value_range: which stored values become 0 to 255, see :class:`Files`.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        images: Paths,
        labels: LabelSpace,
        *,
        limits: Limits,
        value_range: object = None,
    ) -> None:
        decoding = Decoding(labels, id_table({k: k for k in range(labels.num_classes)}))
        super().__init__(Path(), images, None, decoding, limits=limits, value_range=value_range)
        named = zip(distinct_names(folders), folders, strict=True)
        # A folder in another one comes first: it is the one that its images are named after.
        self._roots = [
            (name, Root(folder, limits))
            for name, folder in sorted(named, key=lambda one: -len(one[1].parts))
        ]

    @property
    def stored(self) -> Sequence[tuple[Path, Paths]]:
        parts: dict[Path, list[Path]] = {root.folder: [] for _, root in self._roots}
        for path in self.images:
            parts[self._root_of(path)[1].folder].append(path)
        return list(parts.items())

    def name(self, index: int) -> str:
        path = self.images[index]
        name, root = self._root_of(path)
        return "/".join([*filter(None, [name]), path.relative_to(root.folder).as_posix()])

    def _checked(self, path: Path) -> Path:
        self._root_of(path)[1].check(path)
        return path

    def _root_of(self, path: Path) -> tuple[str, Root]:
        return next(one for one in self._roots if path.is_relative_to(one[1].folder))


def image_folders(
    places: Sequence[str],
    labels: LabelSpace,
    argument: str,
    *,
    limits: Limits,
    value_range: object = None,
) -> ImageFolders:
    """The images of all places, in their order and sorted within a folder.

    Args:
        places: folders, of which all images at any depth are taken, and text files that list
            images below their own folder, see :func:`sfseg.data.paths.read_list`; masks that such
            a list names are not read.
        labels: classes of the task.
        argument: the setting that names the places, for messages.
        limits: what may be opened.
        value_range: which stored values become 0 to 255.

    Raises:
        DataError: a place that does not exist or has no images, or an image that is named twice.
    """
    folders: list[Path] = []
    images = PathList(Path())
    for place in places:
        path = Path(os.path.abspath(Path(place).expanduser()))  # noqa: PTH100 - follows no links
        before, is_list = len(images), path.is_file()
        folder = path.parent if is_list else path
        if not (is_list or path.is_dir()):
            raise DataError(f"{argument} names {place}, which does not exist; correct or remove it")
        found = (name for name, _ in read_list(path, folder)) if is_list else None
        for name in found or Root(folder, limits).images(folder):
            images.append((folder / name).as_posix())
        if len(images) == before:
            raise DataError(
                f"{argument} names {place}, which {'lists' if is_list else 'holds'} no images; "
                "fill or remove it"
            )
        if folder not in folders:
            folders.append(folder)
    _require_once(images, argument)
    return ImageFolders(folders, images, labels, limits=limits, value_range=value_range)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """As many of the last parts of each absolute path as tell them apart; of one folder none."""
    parts = [folder.parts[1:] for folder in folders]
    for number in range(min(map(len, parts)) + 1):
        names = ["/".join(part[len(part) - number :]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(part) for part in parts]


def _require_once(images: PathList, argument: str) -> None:
    seen: set[str] = set()
    for name in images.names():
        if name in seen:
            raise DataError(
                f"{argument} names {name} twice; its folders must not lie in each other, and its "
                "lists must not share images"
            )
        seen.add(name)
