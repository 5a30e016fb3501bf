"""Training on a few images of the target: one-shot adaptation and its k-shot sister."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sfseg.checks import require_at_least
from sfseg.data.files import Files
from sfseg.data.folder import Scenes
from sfseg.data.geometry import Image, Size
from sfseg.errors import ConfigError
from sfseg.randomness import generator

log = logging.getLogger(__name__)
SHOWN = 3


@dataclass(frozen=True)
class Shots:
    """The training images of the target that a run may see; all by default.

    In the protocol of one-shot adaptation (DATUM, CVPRW 2023) a score is the mean of three runs,
    each with an image drawn for itself: ``data.n_shots=1 data.shot_seed=0,1,2``.

    Args:
        names: of images, as :meth:`sfseg.data.folder.Scenes.name` says, or the last part of that,
            also without its suffix, where only one image has it. None: see ``number``.
        number: how many are drawn, none twice; None: all are taken.
        seed: of the draw, which depends on nothing else but how many images there are.

    Raises:
        ConfigError: both names and a number.
        ValueError: a number below 1, or no name.
    """

    names: Sequence[str] | None = None
    number: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.names is not None and self.number is not None:
            raise ConfigError(
                f"data.shots={list(self.names)} and data.n_shots={self.number} say both which "
                "images of the target are seen; set one of them"
            )
        if self.number is not None:
            require_at_least(1, **{"data.n_shots": self.number})
        if self.names is not None and not self.names:
            raise ValueError("data.shots must name images of the target, got []; null takes all")

    @property
    def are_few(self) -> bool:
        """Whether not all images are seen."""
        return self.names is not None or self.number is not None

    def of(self, scenes: Scenes) -> Scenes:
        """These scenes of a set, in its order.

        Raises:
            ConfigError: a name that no image has, or that several have; more than there are.
        """
        if not self.are_few:
            return scenes
        chosen = self._drawn(len(scenes)) if self.names is None else self._named(scenes)
        some = [scenes.name(k) for k in chosen[:SHOWN]]
        dots = ", ..." if len(chosen) > SHOWN else ""
        log.info(
            "target train: %d of %d images are seen: %s%s",
            len(chosen), len(scenes), ", ".join(some), dots,
        )  # fmt: skip
        if isinstance(scenes, Files):
            return few_files(scenes, chosen)
        return FewScenes(scenes, chosen)

    def _drawn(self, images: int) -> list[int]:
        assert self.number is not None, "or all are taken"
        if self.number > images:
            raise ConfigError(
                f"data.n_shots={self.number} is more than the {images} training images of the "
                "target; lower it, or set data.n_shots=null"
            )
        order = generator(self.seed, 0, 0, "shots").permutation(images)
        return sorted(int(k) for k in order[: self.number])

    def _named(self, scenes: Scenes) -> list[int]:
        assert self.names is not None, "or they are drawn"
        places: dict[str, list[int]] = {}
        for k in range(len(scenes)):
            name = PurePosixPath(scenes.name(k))
            for form in {str(name), name.name, name.stem}:
                places.setdefault(form, []).append(k)
        chosen = set()
        for shot in map(str, self.names):
            found = places.get(shot, [])
            if len(found) != 1:
                what = "no training image" if not found else f"{len(found)} training images"
                raise ConfigError(
                    f"data.shots names {shot!r}, which {what} of the target has; names are such "
                    f"as {scenes.name(0)}"
                )
            chosen.add(found[0])
        return sorted(chosen)


class FewScenes:
    """Some scenes of a set that is not stored in files.

    Args:
        scenes: the set.
        chosen: positions there.
    """

    def __init__(self, scenes: Scenes, chosen: Sequence[int]) -> None:
        self.scenes, self.chosen = scenes, tuple(chosen)
        self.labels, self.has_labels = scenes.labels, scenes.has_labels

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        return self.scenes.name(self.chosen[index])

    def size(self, index: int) -> Size:
        return self.scenes.size(self.chosen[index])

    def image(self, index: int) -> Image:
        return self.scenes.image(self.chosen[index])

    def label(self, index: int) -> Image:
        return self.scenes.label(self.chosen[index])


def few_files(files: Files, chosen: Sequence[int]) -> Files:
    """Some scenes of a set of files, by their positions; it is a set of files too."""
    few = copy.copy(files)
    few.__dict__.pop("unpaired", None)
    few.images = [files.images[k] for k in chosen]
    few.masks = None if files.masks is None else [files.masks[k] for k in chosen]
    few.official = None
    return few
