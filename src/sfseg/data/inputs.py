"""Which pictures a command line means: folders, files and patterns."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sfseg.data.paths import by_suffix, is_image, list_images, say_passed_over, suffix_of
from sfseg.errors import DataError

log = logging.getLogger(__name__)


class Input(NamedTuple):
    """A picture and the name that what is made of it gets: relative, ending in ``.png``."""

    path: Path
    name: Path


def find_inputs(sources: Sequence[str], own: Collection[Path] = ()) -> list[Input]:
    """All pictures that are meant, each once, in the order of ``sources`` and sorted within each.

    Below a folder its sub-folders are kept, of a pattern what its wildcards stand for. What is a
    file or a folder is no pattern, whatever characters its name has.

    Args:
        sources: folders, files, and patterns such as ``photos/*.jpg``, ``**`` for any depth.
        own: folders that a command writes to: nothing below them is read.

    Raises:
        DataError: a source is not there, there are no images, or two whose outputs would have one
            name.
    """
    real = [os.path.realpath(folder) for folder in own]
    found: dict[Path, Path] = {}
    left_out = 0
    for source in sources:
        for path, name in _found(source):
            if any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in real):
                left_out += 1
            elif found.setdefault(name, path) != path:
                raise DataError(
                    f"{found[name]} and {path} would both be written as {name}; rename one of them"
                )
    if left_out:
        log.info("files below the output, which are not read: %d", left_out)
    if not found:
        raise DataError(f"images={','.join(sources)} holds no image files")
    suffixes = Counter(suffix_of(path.name) for path in found.values())
    log.info("%d images: %s", len(found), by_suffix(suffixes))
    return [Input(path, name) for name, path in found.items()]


def find_images(sources: Sequence[str], setting: str) -> list[Path]:
    """All pictures that are meant, each once, in the order of :func:`find_inputs`.

    Args:
        sources: as there.
        setting: what names them, for messages.

    Raises:
        DataError: a source is not there, or has no images.
    """
    found: dict[Path, None] = {}
    for source in sources:
        paths = [path for path, _ in _found(source, setting)]
        if not paths:
            raise DataError(f"{setting}={source} holds no image files")
        found |= dict.fromkeys(paths)
    return list(found)


def _found(source: str, setting: str = "images") -> Iterator[Input]:
    path = Path(source)
    if path.is_dir():
        yield from (_input(image, path) for image in list_images(path))
    elif path.exists():
        yield _input(path, path.parent)
    elif glob.has_magic(source):
        yield from _matching(source)
    else:
        raise DataError(f"{setting}={source} does not exist")


def _matching(pattern: str) -> Iterator[Input]:
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    files = [path for path in matches if not path.is_dir()]
    others = Counter(suffix_of(path.name) for path in files if not is_image(path.name))
    say_passed_over(pattern, others)
    yield from (_input(path, base) for path in files if is_image(path.name))
    for folder in (path for path in matches if path.is_dir()):
        yield from (_input(path, base) for path in list_images(folder))


def _input(path: Path, base: Path) -> Input:
    return Input(path, path.relative_to(base).with_suffix(".png"))
