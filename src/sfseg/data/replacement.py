"""Images that stand for the target's training images: of several folders, or generated ones."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sfseg.data.check import on_all_processors
from sfseg.data.files import Files
from sfseg.data.geometry import Image
from sfseg.data.image_folders import ImageFolders, image_folders
from sfseg.data.paths import Limits
from sfseg.data.shots import few_files
from sfseg.errors import ConfigError, DataError
from sfseg.labels import LabelSpace
from sfseg.types import size_text

log = logging.getLogger(__name__)

BLACK = 8
"""An image none of whose values reaches this is black: a watermark or lossy file stays below it."""
ANYWHERE = Limits()
Places = str | Sequence[str]


@dataclass(frozen=True)
class Replacement:
    """Which images a run trains on in place of the target's own; by default on these.

    They have no labels. What the run is judged on stays the target's.

    Args:
        folders: folders and lists of images, see :func:`image_folders`, ``data.target_folders``.
        generated: the same, of images that a model has generated, ``data.generated``; black ones,
            which Stable Diffusion's safety checker puts in the place of what it refuses, are left
            out.
        limits: what may be opened.
        value_range: which stored values of ``folders`` become 0 to 255, see :class:`Files`.

    Raises:
        ConfigError: both, none in a list, or what is no name.
    """

    folders: Places | None = None
    generated: Places | None = None
    limits: Limits = ANYWHERE
    value_range: object = None

    def __post_init__(self) -> None:
        if self.folders is not None and self.generated is not None:
            raise ConfigError(
                f"data.target_folders={self.folders} and data.generated={self.generated} both say "
                "which images stand for the target's; set one of them. The first takes generated "
                "images too, but leaves no black ones out"
            )
        if not self.is_given:
            return
        for place in self._places:
            if not isinstance(place, str):
                raise ConfigError(
                    f"{self._argument} must be names, got {place!r}, which YAML reads as another "
                    f"value: put it in quotes, '{place}'"
                )
        if not all(self._places) or not self._places:
            raise ConfigError(
                f"{self._argument} must name folders or lists of images, got "
                f"{self._places}; null takes the target's own"
            )

    @property
    def is_given(self) -> bool:
        """Whether there are other images than the target's own."""
        return self.folders is not None or self.generated is not None

    def images(self, labels: LabelSpace) -> Files:
        """The images to train on.

        Args:
            labels: classes of the task.

        Raises:
            DataError: a place that does not exist or has no images, or black ones alone.
        """
        found = self.listed(labels)
        if self.generated is None:
            log.info("target train: %d images of %s", len(found), self._named)
            return found
        return without_black(found, f"{self._argument}={self._named}")

    def listed(self, labels: LabelSpace) -> ImageFolders:
        """All images, of which none has been looked at.

        Raises:
            DataError: a place that does not exist or has no images.
        """
        value_range = None if self.folders is None else self.value_range
        return image_folders(
            self._places, labels, self._argument, limits=self.limits, value_range=value_range
        )

    @property
    def _argument(self) -> str:
        return "data.generated" if self.folders is None else "data.target_folders"

    @property
    def _places(self) -> list[str]:
        places: Any = self.generated if self.folders is None else self.folders
        several = isinstance(places, Sequence) and not isinstance(places, str)
        return list(places) if several else [places]

    @property
    def _named(self) -> str:
        return ", ".join(self._places)


def is_black(image: Image) -> bool:
    """Whether no value of an image (H, W, 3) uint8 reaches :data:`BLACK`."""
    return bool(image.max() < BLACK)


def without_black(files: Files, title: str) -> Files:
    """Generated images but for black ones, of which every one is read; what was found is logged.

    One that cannot be read is kept: the check of the set says what ``data.on_error`` does with it.

    Args:
        files: of the set.
        title: its setting and value, for messages.

    Raises:
        DataError: all are black.
    """

    def look(index: int) -> tuple[bool, str]:
        try:
            image = files.image(index)
        except DataError:
            return False, "unreadable"
        return is_black(image), size_text(image.shape[:2])

    looks = list(on_all_processors(look, range(len(files))))
    kept = [index for index, (black, _) in enumerate(looks) if not black]
    if not kept:
        raise DataError(
            f"{title}: all {len(files)} images are black, as Stable Diffusion's safety checker "
            "makes those that it refuses; generate them without it"
        )
    sizes = Counter(looks[index][1] for index in kept)
    log.info(
        "target train: %d generated images of %s in place of the target's own; %d black ones are "
        "left out; sizes: %s",
        len(kept), title, len(files) - len(kept),
        ", ".join(f"{size} ({number})" for size, number in sizes.most_common()),
    )  # fmt: skip
    return few_files(files, kept)
