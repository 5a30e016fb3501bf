"""Which mask belongs to which image, by their names, and what masks are there where it is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from sfseg.data.paths import SUFFIXES, is_file

SHOWN = 3
SEPARATORS = "_-. "
TRIED = 5
"""Images by which a rule is tried."""


@dataclass(frozen=True)
class MaskNames:
    """A mask has its image's sub-folder and name, but for an ending, and any image suffix.

    Args:
        base: the folder with both.
        images: name of the folder of images.
        masks: name of the folder of masks.
        image_suffix: what an image's name ends with and its mask's does not, before the dot.
        mask_suffix: what a mask's name ends with and its image's does not.
    """

    base: Path
    images: str
    masks: str
    image_suffix: str = ""
    mask_suffix: str = ""

    def stem(self, image: str, image_suffix: str | None = None) -> str:
        """The part of a mask's path that its image's shares, relative to the base."""
        ending = self.image_suffix if image_suffix is None else image_suffix
        name = image.removeprefix(f"{self.images}/").rpartition(".")[0]
        return f"{self.masks}/{name.removesuffix(ending)}"

    def finder(self) -> Callable[[str], str]:
        """A function from an image's path to its mask's, or to where that should be."""
        suffixes = sorted(SUFFIXES, key=lambda suffix: suffix != ".png")
        suffixes += [suffix.upper() for suffix in suffixes]

        def mask_of(image: str) -> str:
            stem = self.stem(image) + self.mask_suffix
            found = next((s for s in suffixes if is_file(f"{self.base}/{stem}{s}")), suffixes[0])
            # All masks of a set tend to have one suffix.
            suffixes.insert(0, suffixes.pop(suffixes.index(found)))
            return stem + found

        return mask_of

    def folder_hint(self, image: str) -> str:
        """Which sub-folder of masks is not there where others are; empty where none is.

        Args:
            image: any of those without a mask, relative to the base.
        """
        place = self.base / self.masks
        part = image.removeprefix(f"{self.images}/").partition("/")[0]
        if not place.is_dir():
            return ""
        names = sorted(p.name for p in place.iterdir() if p.is_dir())
        listed = ", ".join(names[:SHOWN]) + (", ..." if names[SHOWN:] else "") or "no sub-folders"
        return f"{self.images}/{part} has no partner {self.masks}/{part}; {self.masks} has {listed}"

    def hint(self, images: Sequence[str], *, is_all: bool) -> str:
        """What is there instead of masks that were not found; empty where that says nothing.

        Args:
            images: those without a mask, relative to the base.
            is_all: whether no image of the set has one.
        """
        place = self.base / self.stem(images[0])
        folder = place.parent.relative_to(self.base).as_posix()
        if not place.parent.is_dir():
            return f"there is no folder {folder}"
        names = sorted(p.name for p in place.parent.iterdir() if p.suffix.lower() in SUFFIXES)
        if not names:
            return f"{folder} holds no image files"
        stem = self.stem(images[0], "").rpartition("/")[2]
        closest = max(names, key=lambda name: _shared(name, stem))
        before, after = _endings(stem, Path(closest).stem)
        found = replace(self, image_suffix=before, mask_suffix=after).finder()
        is_rule = before != stem and (len(images) > 1 or not before)
        if is_rule and all(is_file(f"{self.base}/{found(image)}") for image in images[:TRIED]):
            settings = {
                "data.image_suffix": (self.image_suffix, before),
                "data.mask_suffix": (self.mask_suffix, after),
            }
            words = " ".join(
                f"{key}={right or repr('')}"
                for key, (given, right) in settings.items()
                if right or given
            )
            return f"{folder} has {closest}: {words}"
        listed = ", ".join(names[:SHOWN]) + (", ..." if names[SHOWN:] else "")
        return f"{folder} has {listed}" if is_all else ""


def _endings(image: str, mask: str) -> tuple[str, str]:
    """How two names go on behind what they share; they share whole words only."""
    shared = _shared(image, mask)
    while shared and not _is_cut(image, mask, shared):
        shared -= 1
    return image[shared:], mask[shared:]


def _shared(first: str, second: str) -> int:
    """How many characters two names have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _is_cut(image: str, mask: str, at: int) -> bool:
    """Whether each name ends there, or goes on with a separator."""
    return all(len(name) == at or name[at] in SEPARATORS for name in (image, mask))
