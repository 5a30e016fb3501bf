"""All that is found in a set: its sizes, how often each class occurs, what is wrong or odd."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfseg.data.check import Finding, Look, is_void, label_name, labelled, unpaired
from sfseg.data.class_check import odd_classes
from sfseg.data.files import pairing_hint
from sfseg.data.folder import Scenes
from sfseg.data.geometry import Size
from sfseg.data.odd_pictures import remarks
from sfseg.errors import DataError
from sfseg.types import IGNORE, size_text

Pictures = dict[tuple[int, Size], str]
"""Digest and size of each picture seen so far, and where it was seen first."""


@dataclass(frozen=True)
class Report:
    """What is known of one set.

    scenes: how many there are; 0 where the set cannot be opened.
    official: how many were published, None where that is unknown.
    has_labels: whether labels were read.
    classes: names of its classes, in the order of their ids.
    looks: at the scenes that were read.
    findings: of all files and of the whole set.
    """

    scenes: int
    official: int | None
    has_labels: bool
    classes: tuple[str, ...]
    looks: tuple[Look, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, scenes: Scenes, title: str, looks: Sequence[Look], seen: Pictures) -> "Report":
        """The report of a set that was opened.

        Args:
            scenes: the set.
            title: its name, such as ``source train``.
            looks: at its scenes, or at some of them.
            seen: pictures of the sets before this one; its own are added.
        """
        whole = [
            *_of_the_set(scenes, title, looks),
            *_without_labels(scenes),
            *(found for look in looks for found in look.findings),
            *_repeated(looks, title, seen),
        ]
        return cls(
            scenes=len(scenes),
            official=getattr(scenes, "official", None),
            has_labels=scenes.has_labels,
            classes=scenes.labels.classes,
            looks=tuple(looks),
            findings=tuple(whole),
        )

    @classmethod
    def unopened(cls, error: DataError) -> "Report":
        """The report of a set that cannot be opened."""
        found = Finding(
            error.kind or "set cannot be opened", str(error.path or ""), str(error), error.pixels
        )
        return cls(0, None, has_labels=False, classes=(), looks=(), findings=(found,))

    @property
    def faults(self) -> list[Finding]:
        return [found for found in self.findings if found.is_fault]

    @property
    def suspicions(self) -> list[Finding]:
        return [found for found in self.findings if not found.is_fault]

    @property
    def sizes(self) -> Counter[Size]:
        """How many images there are of each size, smallest first."""
        return Counter(sorted(look.size for look in self.looks if look.size is not None))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Labelled pixels of each class in each image whose label was read, (R, K)."""
        rows = [look.counts for look in self.looks if look.counts is not None]
        return np.array(rows, np.int64).reshape(len(rows), len(self.classes))

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of each class in the labelled pixels, (K,) in [0, 1]."""
        pixels = self.counts.sum(axis=0)
        return np.asarray(pixels / max(1, pixels.sum()), np.float64)

    @property
    def images(self) -> NDArray[np.int64]:
        """Number of images in which each class occurs, (K,)."""
        return np.asarray((self.counts > 0).sum(axis=0), np.int64)

    @property
    def is_complete(self) -> bool:
        """Whether all scenes were read, each with its label."""
        return len(self.counts) == self.scenes and not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        measured = zip(self.classes, self.counts.sum(axis=0), self.shares, self.images, strict=True)
        return {
            "scenes": self.scenes,
            "read": len(self.looks),
            "official": self.official,
            "labelled": self.has_labels,
            "sizes": {size_text(size): number for size, number in self.sizes.items()},
            "faults": [asdict(found) for found in self.faults],
            "suspicions": [asdict(found) for found in self.suspicions],
            "classes": {
                name: {"pixels": int(pixels), "share": float(share), "images": int(images)}
                for name, pixels, share, images in measured
            }
            if self.has_labels
            else {},
        }


def _of_the_set(scenes: Scenes, title: str, looks: Sequence[Look]) -> Iterator[Finding]:
    count, official = len(scenes), getattr(scenes, "official", None)
    if not count:
        yield Finding("empty set", "", "no images; check its folder, split and sequences")
    if is_void(looks):
        yield Finding(
            "void set",
            "",
            f"all pixels of the {len(looks)} labels read are void ({IGNORE}); check the id mapping "
            "(data.classes) and the masks",
        )
    for kind, text in odd_classes(scenes, labelled(looks), sum(look.pixels for look in looks)):
        yield Finding(kind, "", text, is_fault=False)
    if official is not None and count < official:
        message = f"{count} of {official} images as published; the download may be incomplete"
        yield Finding("fewer images than published", "", message, is_fault=False)
    if not scenes.has_labels:
        yield from _unlabelled(scenes, title)
    for kind, message in remarks([look.facts for look in looks]):
        yield Finding(kind, "", message, is_fault=False)


def _unlabelled(scenes: Scenes, title: str) -> Iterator[Finding]:
    """A source is there for its labels; a target may have none, or has them elsewhere."""
    hint = pairing_hint(scenes) if not title.startswith("target train") else ""
    if title.startswith("source"):
        hint = "no labels, but training on the source needs them" + (f"; {hint}" if hint else "")
    if hint:
        yield Finding("no labels", "", hint, is_fault=False)


def _without_labels(scenes: Scenes) -> Iterator[Finding]:
    hint = pairing_hint(scenes)
    for index in unpaired(scenes):
        name = label_name(scenes, index)
        message = f"{name} does not exist: {scenes.name(index)} lacks it"
        yield Finding("no label file", name, f"{message}; {hint}" if hint else message)


def _repeated(looks: Sequence[Look], title: str, seen: Pictures) -> Iterator[Finding]:
    for look in looks:
        if look.size is None:
            continue
        picture, own = (look.digest, look.size), f"{title}: {look.name}"
        if picture not in seen:
            seen[picture] = own
            continue
        message = f"{look.name} is the same picture as {seen[picture].removeprefix(f'{title}: ')}"
        yield Finding("same picture twice", look.name, message, is_fault=False)
