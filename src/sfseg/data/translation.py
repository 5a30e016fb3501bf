"""Training images of the source in the style of the target: made on the way, or read ready made."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from sfseg.data.check import spread
from sfseg.data.files import Files, Paths
from sfseg.data.folder import Read, Scenes
from sfseg.data.fourier import fourier_swap, low_frequencies, require_beta
from sfseg.data.geometry import Image, Size, View, resize_image
from sfseg.data.paths import PathList, Root
from sfseg.errors import ConfigError, DataError
from sfseg.randomness import generator
from sfseg.types import size_text

SHOWN = 3
SAMPLED = 500
"""Pictures whose sizes are compared, evenly spread."""


def untranslated() -> None:
    """Images as they are: ``data/translation=none``."""


@dataclass(frozen=True)
class FourierTranslation:
    """Each crop takes the low frequencies of an image of the target, see :func:`fourier_swap`.

    Args:
        beta: the highest of these, in waves per pixel of the crop's shorter side; 0.01, 0.05 and
            0.09 in the paper.

    Raises:
        ValueError: it is not above 0 and below 0.5.
    """

    beta: float = 0.05

    def __post_init__(self) -> None:
        require_beta(self.beta)

    def require_change(self, view: View, sizes: Sequence[Size]) -> None:
        """Refuse a share that moves the mean colour of a crop and nothing else.

        Args:
            view: how crops of the source are drawn.
            sizes: of some pictures of the source.

        Raises:
            ConfigError: names the crop and the least share that does more.
        """
        assert view.crop is not None, "it follows the pictures of a set that has been opened"
        low, _ = view.ratio
        shown = [tuple(map(min, view.crop, view.scaled(full, low))) for full in sizes]
        height, width = min(shown, key=min, default=view.crop)
        if len(low_frequencies(self.beta, (height, width))[1]) == 1:
            least = np.ceil(1e4 / min(height, width)) / 1e4
            raise ConfigError(
                f"data.translation.beta={self.beta} changes nothing but the mean colour of crops "
                f"of {size_text((height, width))} pixels (width x height): set it to {least:g} or "
                "more, or make the crops larger"
            )


class FourierStyle:
    """Restyles crops, each by an image of the target that follows from pass and index alone.

    Args:
        translation: how.
        scenes: the target's training images; labels are not opened.
        view: how the target is shown, of which the size before random crops is taken.
        seed: run seed.
        read: reads a scene; None decodes its file each time.
        left_out: scenes that cannot be used; the next one takes their place.
    """

    def __init__(
        self,
        translation: FourierTranslation,
        scenes: Scenes,
        view: View,
        *,
        seed: int,
        read: Read | None = None,
        left_out: Collection[int] = (),
    ) -> None:
        self.translation = translation
        self.scenes = scenes
        self.view = view
        self.seed = seed
        self.read = read
        self.left_out = frozenset(left_out)

    def __call__(self, image: Image, pass_number: int, index: int) -> Image:
        """See :data:`sfseg.data.folder.Restyle`."""
        rng = generator(self.seed, pass_number, index, "source/translation")
        style = self._style(int(rng.integers(len(self.scenes))))
        style = resize_image(style, (image.shape[0], image.shape[1]))
        swapped = fourier_swap(image, style, self.translation.beta)
        return np.rint(swapped).astype(np.uint8)

    def _style(self, first: int) -> Image:
        following = chain(range(first, len(self.scenes)), range(first))
        index = next(k for k in following if k not in self.left_out)
        image = self.scenes.image(index) if self.read is None else self.read(index).image
        # As a cache keeps it, so that a run is the same with one and without.
        full = (image.shape[0], image.shape[1])
        return resize_image(image, self.view.fixed_size(full) or full)


class StyledScenes:
    """Whole images of a set in another style, for people to look at.

    Args:
        scenes: the set.
        style: of its images.
    """

    def __init__(self, scenes: Scenes, style: FourierStyle) -> None:
        self.scenes = scenes
        self.style = style
        self.labels, self.has_labels = scenes.labels, scenes.has_labels
        self.name, self.size, self.label = scenes.name, scenes.size, scenes.label

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, index: int) -> Image:
        return self.style(self.scenes.image(index), 0, index)


class TranslatedFiles(Files):
    """A set whose images are read from a folder of translated ones, with the original labels.

    Args:
        files: the original set, which names its images.
        folder: of the translated ones.
        pictures: a translated image of each; what they store is shown as it is.
    """

    def __init__(self, files: Files, folder: Path, pictures: PathList) -> None:
        super().__init__(
            files.root,
            files.images,
            files.masks,
            files.decoding,
            limits=files.limits,
            fit_labels=files.fit_labels,
            official=files.official,
            mask_names=files.mask_names,
        )
        self.folder = folder
        self.pictures = pictures
        self._translations = Root(folder, files.limits)

    @property
    def stored(self) -> Sequence[tuple[Path, Paths]]:
        return [(self.folder, self.pictures), *super().stored[1:]]

    def image_file(self, index: int) -> Path:
        path = self.pictures[index]
        self._translations.check(path)
        return path


def translated(scenes: Scenes, folder: str | Path) -> TranslatedFiles:
    """A set with translated images in place of its own.

    A translated image has the name of the original, whatever the suffix, and lies in the same
    sub-folders of the data set's root, or in fewer of them, down to none.

    Args:
        scenes: the original set.
        folder: of the translated images, ``data.translated``.

    Raises:
        ConfigError: the set is not stored in files.
        DataError: no such folder, images that are missing or have another size than the original,
            or names that could mean two.
    """
    setting = f"data.translated={folder}"
    if not isinstance(scenes, Files):
        raise ConfigError(
            f"{setting} needs a source in files, got {type(scenes).__name__}; set "
            "data.translated=null, and data/translation=fda, which needs no folder"
        )
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(f"{setting} is no folder; point it at the translated images of the source")
    found = TranslatedFiles(scenes, place, _paired(scenes, place, setting))
    _require_equal_sizes(scenes, found, setting)
    return found


def _paired(files: Files, place: Path, setting: str) -> PathList:
    """The translated image of each of the originals."""
    stems: dict[str, str] = {}
    for name in Root(place, files.limits).images(place):
        if (other := stems.setdefault(name.rpartition(".")[0], name)) != name:
            raise DataError(f"{setting} holds both {other} and {name}; remove one of them")
    taken: dict[str, int] = {}
    names: list[str] = []
    missing: list[str] = []
    for index in range(len(files)):
        found = _translation(files.name(index), stems)
        if found is None:
            missing.append(files.name(index))
        elif (other_index := taken.setdefault(found, index)) != index:
            raise DataError(
                f"{setting}: {found} would stand for {files.name(other_index)} and for "
                f"{files.name(index)}; keep the sub-folders of the data set"
            )
        else:
            names.append(found)
    if missing:
        examples = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise DataError(
            f"{setting} lacks {len(missing)} of {len(files)} images of the source: {examples}; "
            "every image needs a translated one of its name, with any suffix"
        )
    return PathList(place, names)


def _translation(name: str, stems: dict[str, str]) -> str | None:
    """The file of the name that shares most of an original's path, if there is any."""
    parts = name.rpartition(".")[0].split("/")
    shared = ("/".join(parts[k:]) for k in range(len(parts)))
    return next((stems[stem] for stem in shared if stem in stems), None)


def _require_equal_sizes(files: Files, found: TranslatedFiles, setting: str) -> None:
    indices = spread(len(files), SAMPLED)
    other = [k for k in indices if files.size(k) != found.size(k)]
    if other:
        raise DataError(
            f"{setting}: {len(other)} of {len(indices)} images looked at have another size than "
            f"the original; {found.image_file(other[0])} has {size_text(found.size(other[0]))} "
            f"pixels (width x height), {files.name(other[0])} {size_text(files.size(other[0]))}; "
            "resize them, since the labels are the original's"
        )
