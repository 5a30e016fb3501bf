"""Look at the data before training does: hours later is too late for a broken file."""

import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.class_check import warn_of_classes
from sfseg.data.files import Files, pairing_hint
from sfseg.data.folder import Scenes, require_equal_sizes
from sfseg.data.geometry import Image, Size
from sfseg.data.left_out import LeftOut, OnError
from sfseg.data.odd_pictures import Facts, facts, remarks
from sfseg.errors import DataError
from sfseg.types import IGNORE

log = logging.getLogger(__name__)

SHOWN = 5
EXACT = 1 << 24
"""Up to here cv2 counts pixels exactly, in float32."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Checks:
    """What of a set is read before training, and what a scene that cannot be used does.

    Args:
        samples: scenes of each set that are read; None reads all.
        on_error: ``raise`` ends the run. ``skip`` reads all, leaves unusable scenes out of
            evaluation and of pseudo-labelling, and has training take the next one instead, each
            with a warning. A file that breaks later is replaced in training too; in evaluation it
            ends the run, whose scores would be of fewer images than it says.
        max_skipped: scenes of a set that ``skip`` may leave out.

    Raises:
        ValueError: another ``on_error``, or a negative number.
    """

    samples: int | None = 500
    on_error: OnError = "raise"
    max_skipped: int = 10

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise ValueError(
                f"data.on_error must be one of {', '.join(get_args(OnError))}, got "
                f"{self.on_error!r}"
            )
        if self.max_skipped < 0:
            raise ValueError(f"data.max_skipped must be at least 0, got {self.max_skipped}")

    def passed(self, scenes: Scenes, what: str, *, with_labels: bool) -> LeftOut:
        """:func:`check_scenes` by these settings; what is to be left out, if anything."""
        left_out = LeftOut(what, len(scenes), self.max_skipped)
        gather = left_out if self.on_error == "skip" else None
        check_scenes(scenes, what, with_labels=with_labels, samples=self.samples, left_out=gather)
        return left_out


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    kind: what it is, in words that do not change from file to file.
    file: relative to the root of a set that can be opened; empty where the whole set is meant.
    message: for people.
    pixels: how many are meant, where that can be said.
    is_fault: False for what is odd, but can be used.
    """

    kind: str
    file: str
    message: str
    pixels: int | None = None
    is_fault: bool = True


@dataclass(frozen=True)
class Look:
    """What one scene looks like.

    name: of the scene.
    findings: what is wrong with its files, and what is odd.
    size: of the image, None where it cannot be read.
    counts: (K,) labelled pixels of each class, None where the label is not read.
    pixels: of its label, void included; 0 where it is not read.
    digest: of the image's pixels, equal for equal pictures; 0 where there are none.
    facts: of the image's file, None where it cannot be read or there is none.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    size: Size | None = None
    counts: NDArray[np.int64] | None = None
    digest: int = 0
    pixels: int = 0
    facts: Facts | None = None

    @property
    def faults(self) -> list[str]:
        return [found.message for found in self.findings if found.is_fault]

    @property
    def suspicions(self) -> list[str]:
        return [found.message for found in self.findings if not found.is_fault]


def look(scenes: Scenes, index: int, *, with_labels: bool) -> Look:
    """Decode a scene and compare its image with its label."""
    name = scenes.name(index)
    findings: list[Finding] = []
    size, digest, counts, pixels, known = None, 0, None, 0, None
    try:
        image = scenes.image(index)
        size, digest = (image.shape[0], image.shape[1]), _digest(image)
        known = facts(scenes, index, image)
    except DataError as error:
        findings.append(fault(error, name, scenes))
    try:
        if with_labels:
            label, odd = _examined(scenes, index)
            require_equal_sizes(name, size or label.shape[:2], label)
            counts, pixels = count_classes(label, scenes.labels.num_classes), label.size
            findings += odd
            findings += _uniform(scenes, index, counts, label.size)
    except DataError as error:
        found = fault(error, label_name(scenes, index), scenes)
        # Reading a label may need its image's size, and find the same fault again.
        findings += [found] if found.file not in {other.file for other in findings} else []
    return Look(name, tuple(findings), size, counts, digest, pixels, known)


def look_at(scenes: Scenes, indices: Sequence[int], *, with_labels: bool) -> Iterator[Look]:
    """:func:`look` at several scenes, on all processors; labels that do not exist are left out."""
    missing = set(unpaired(scenes)) if with_labels else set()

    def one(index: int) -> Look:
        return look(scenes, index, with_labels=with_labels and index not in missing)

    return on_all_processors(one, indices)


def check_scenes(
    scenes: Scenes,
    what: str,
    *,
    with_labels: bool,
    samples: int | None,
    left_out: LeftOut | None = None,
) -> None:
    """Decode images and labels of a set and compare them.

    Args:
        scenes: the set.
        what: its name for messages, such as ``source train``.
        with_labels: whether labels will be read.
        samples: how many scenes, evenly spread, are read; None reads all, 0 none.
        left_out: gets the scenes that cannot be used, all are read for it; None raises instead.

    Raises:
        DataError: an empty set, missing labels, unreadable files, images and labels of
            different size, ids that are no class, or labels that are void everywhere.
    """
    if not len(scenes):
        raise DataError(f"the {what} set is empty; check its folder, split and sequences")
    if left_out is not None:
        looks = _usable(scenes, left_out, with_labels=with_labels)
    else:
        if with_labels:
            _require_pairs(scenes, what)
        looks = list(look_at(scenes, spread(len(scenes), samples), with_labels=with_labels))
        _require_sound(looks, what)
    if is_void(looks):
        raise DataError(
            f"{what}: all pixels of the {len(looks)} labels read are void ({IGNORE}); nothing "
            "could be learnt or measured. Check the id mapping (data.classes) and the masks"
        )
    _warn_of_scenes(looks, what)
    warn_of_classes(scenes, what, labelled(looks), sum(seen.pixels for seen in looks))
    for _, text in remarks([seen.facts for seen in looks]):
        log.warning("%s: %s", what, text)


def on_all_processors(
    function: Callable[[int], Result], indices: Iterable[int]
) -> Iterator[Result]:
    """Results in order; decoding and counting let other threads run."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        yield from pool.map(function, indices)


def count_classes(label: Image, num_classes: int) -> NDArray[np.int64]:
    """(K,) pixels of each class; other threads run meanwhile, unlike with ``np.bincount``."""
    rows = max(1, EXACT // max(1, label.shape[1]))
    counts = np.zeros(num_classes, np.int64)
    for top in range(0, label.shape[0], rows):
        strip = np.ascontiguousarray(label[top : top + rows])
        found = cv2.calcHist([strip], [0], None, [256], [0, 256])
        counts += found.ravel()[:num_classes].astype(np.int64)
    return counts


def spread(length: int, count: int | None) -> list[int]:
    """``count`` positions evenly spread over ``length``; None takes all."""
    count = length if count is None else min(count, length)
    return [int(k) for k in np.unique(np.linspace(0, length - 1, count).astype(int))]


def listing(lines: Sequence[str]) -> str:
    """The first few lines below each other, and how many more there are."""
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "".join(f"\n  {line}" for line in lines[:SHOWN]) + more


def unpaired(scenes: Scenes) -> Sequence[int]:
    """Positions of scenes whose label file does not exist."""
    found: Sequence[int] = getattr(scenes, "unpaired", ())
    return found


def labelled(looks: Iterable[Look]) -> list[NDArray[np.int64]]:
    """(K,) pixels of each class, of each label that was read."""
    return [seen.counts for seen in looks if seen.counts is not None]


def is_void(looks: Iterable[Look]) -> bool:
    """Whether labels were read and no pixel of any of them has a class."""
    counts = labelled(looks)
    return bool(counts) and not any(found.any() for found in counts)


def fault(error: DataError, file: str, scenes: Scenes) -> Finding:
    """The finding for an error; ``file`` is meant where the error names none."""
    if error.path is not None:
        file = relative_name(Path(error.path), scenes)
    return Finding(error.kind or "unusable", file, str(error), error.pixels)


def label_name(scenes: Scenes, index: int) -> str:
    """Where a scene's label lies; the scene's own name where no file is known."""
    masks: Sequence[Path] | None = getattr(scenes, "masks", None)
    return scenes.name(index) if masks is None else relative_name(masks[index], scenes)


def relative_name(path: Path, scenes: Scenes) -> str:
    """A path as the set names its files."""
    root: Path | None = getattr(scenes, "root", None)
    inside = root is not None and path.is_relative_to(root)
    return path.relative_to(root).as_posix() if root is not None and inside else str(path)


def _require_sound(looks: Sequence[Look], what: str) -> None:
    faults = [message for seen in looks for message in seen.faults]
    if faults:
        broken = sum(bool(seen.faults) for seen in looks)
        raise DataError(f"{what}: {broken} of {len(looks)} scenes read{listing(faults)}")


def _usable(scenes: Scenes, left_out: LeftOut, *, with_labels: bool) -> list[Look]:
    """Looks at all scenes but those that cannot be used."""
    for index in unpaired(scenes) if with_labels else ():
        left_out.add(index, f"{label_name(scenes, index)} does not exist")
    looks = []
    for index, seen in enumerate(look_at(scenes, range(len(scenes)), with_labels=with_labels)):
        if seen.faults:
            left_out.add(index, seen.faults[0])
        elif index not in left_out.indices:
            looks.append(seen)
    left_out.report()
    return looks


def _require_pairs(scenes: Scenes, what: str) -> None:
    missing = unpaired(scenes)
    if missing:
        names = [scenes.name(k) for k in missing]
        found = pairing_hint(scenes)
        hint = f"; {found}" if found else ""
        raise DataError(
            f"{what}: {len(missing)} of {len(scenes)} images have no label file; add them or "
            f"remove the images{hint}{listing(names)}"
        )


def _warn_of_scenes(looks: Sequence[Look], what: str) -> None:
    """One line for each kind of what is odd, with its first scene."""
    kinds: dict[str, list[str]] = {}
    for seen in looks:
        for found in seen.findings:
            if not found.is_fault:
                kinds.setdefault(found.kind, []).append(found.message)
    for odd in kinds.values():
        log.warning("%s: %d of %d scenes look odd%s", what, len(odd), len(looks), listing(odd[:1]))


def _examined(scenes: Scenes, index: int) -> tuple[Image, list[Finding]]:
    """A label, and what is odd about the file that holds it."""
    if not isinstance(scenes, Files):
        return scenes.label(index), []
    label, odd = scenes.examined_label(index)
    name = label_name(scenes, index)
    return label, [Finding(r.kind, name, f"{name} {r.text}", is_fault=False) for r in odd]


def _digest(image: Image) -> int:
    # One checksum of 32 bits would be shared by chance among 25,000 pictures.
    pixels = np.ascontiguousarray(image).data
    return zlib.crc32(pixels) << 32 | zlib.adler32(pixels)


def _uniform(
    scenes: Scenes, index: int, counts: NDArray[np.int64], pixels: int
) -> Iterator[Finding]:
    """What to say of a label that holds one class only, as a file misread as zeros does."""
    is_void = not counts.any()
    if pixels > 1 and (is_void or counts.max() == pixels):
        what = "void" if is_void else scenes.labels.classes[int(counts.argmax())]
        yield Finding(
            "void only" if is_void else "one class only",
            label_name(scenes, index),
            f"{scenes.name(index)}: all {pixels} pixels of its label are {what}",
            pixels,
            is_fault=False,
        )
