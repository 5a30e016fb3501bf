"""A folder of generated images and what ``manifest.json`` says of them."""

import json
import logging
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfseg.data.geometry import Image, Size
from sfseg.data.paths import list_images
from sfseg.data.replacement import is_black
from sfseg.errors import ConfigError, OutputError
from sfseg.generation.plan import Plan
from sfseg.report.drawing import png
from sfseg.storage.atomic import file_in_the_way, write_whole

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
BLACK = ".black"
"""Suffix of the empty file that stands for an image that was black and is not kept."""
PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


class ImageSet:
    """The images of a plan in a folder, written by one process or by several at a time.

    Every file appears whole or not at all. One that is damaged later counts as missing.

    Args:
        folder: made if need be.
        plan: its images.
        record: model, settings and whatever else the manifest says of how the images were made.
            While images of an earlier command are there, theirs stays.
        decisive: entries of ``record`` that images depend on.
        size: of the images, (height, width) in pixels.

    Raises:
        ConfigError: the folder holds images of another plan or record, see also
            :func:`require_own`.
        OutputError: nothing can be written.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        record: Mapping[str, Any],
        decisive: Sequence[str],
        size: Size,
    ) -> None:
        require_own(folder)
        self.folder = folder
        self.plan = plan
        self.size = size
        self._record = {**record, "seed": plan.seed, "prompts": list(plan.prompts)}
        self._decisive = [*decisive, "seed", "prompts"]
        self._length = plan.n_images
        before = read_manifest(folder)
        if before is not None:
            self._require_same(before)
            # A smaller set than before: those beyond it stay what they are.
            self._length = max(self._length, len(before["images"]))
            self._keep_record(before)
        self.write_manifest()

    @property
    def beyond(self) -> int:
        """Images of an earlier, larger plan that are there."""
        return sum(map(self._is_whole, range(self.plan.n_images, self._length)))

    def has(self, number: int) -> bool:
        """Whether an image is finished, or known to be black."""
        return self._is_whole(number) or self.is_black(number)

    def is_damaged(self, number: int) -> bool:
        """Whether an image is there, but cut short, of another size or no PNG at all."""
        return self._path(number).is_file() and not self._is_whole(number)

    def is_black(self, number: int) -> bool:
        """Whether an image was black, and is not kept."""
        return self._mark(number).exists()

    def add(self, number: int, image: Image) -> bool:
        """Write an image (H, W, 3) uint8 RGB; of a black one only that it was. Whether it is kept.

        Raises:
            OutputError: it cannot be written; no part of it is there.
        """
        kept = not is_black(image)
        self._write(self._path(number) if kept else self._mark(number), png(image) if kept else b"")
        if not kept:
            self._path(number).unlink(missing_ok=True)
        return kept

    def remove_partial(self) -> None:
        """Remove what killed processes have left of images of this process's share."""
        own = {self.plan.name(number) for batch in self.plan.batches() for number in batch}
        for path in self.folder.glob(".*.partial"):
            if path.name[1:].rsplit(".", 2)[0] in own:
                path.unlink()

    def write_manifest(self) -> None:
        """Say how each image was made, and which were black.

        Raises:
            OutputError: it cannot be written.
        """
        black = None
        # Another process may have found a black one, and written it, between look and writing.
        while black != (now := set(filter(self.is_black, range(self._length)))):
            black = now
            images = [self._entry(number, is_kept=number not in black)
                      for number in range(self._length)]  # fmt: skip
            text = json.dumps({**self._record, "black": len(black), "images": images}, indent=1)
            self._write(self.folder / MANIFEST, text.encode())

    def _entry(self, number: int, *, is_kept: bool) -> dict[str, Any]:
        plan = self.plan
        entry = {"file": plan.name(number), "prompt": plan.prompt(number)}
        return {**entry, "seed": plan.seed + number, **({} if is_kept else {"dropped": "black"})}

    def _require_same(self, before: Mapping[str, Any]) -> None:
        for key in self._decisive:
            was, now = before.get(key), self._record[key]
            if was != now:
                raise ConfigError(
                    f"out={self.folder} holds images of another {key}, {_short(was)}, not "
                    f"{_short(now)}; choose another folder, or generate as before"
                )

    def _keep_record(self, before: Mapping[str, Any]) -> None:
        """Keep what an earlier command said of its images, if there are any."""
        if not any(map(self.has, range(self._length))):
            return
        now = self._record
        self._record = {key: before[key] for key in before if key not in ("images", "black")}
        other = [key for key in now if now[key] != before.get(key)]
        if other:
            log.info(
                "%s says how the first images were made; now another %s",
                self.folder / MANIFEST, ", ".join(other),
            )  # fmt: skip

    def _is_whole(self, number: int) -> bool:
        """Whether the beginning of a file, its size and its end are those of the image."""
        try:
            with self._path(number).open("rb") as file:
                begin = file.read(24)
                file.seek(-len(PNG_END), os.SEEK_END)
                end = file.read()
        except OSError:
            return False
        size = struct.pack(">II", self.size[1], self.size[0])
        return begin.startswith(PNG_BEGIN) and begin[16:] == size and end == PNG_END

    def _path(self, number: int) -> Path:
        return self.folder / self.plan.name(number)

    def _mark(self, number: int) -> Path:
        return self._path(number).with_suffix(BLACK)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_whole(path, lambda file: file.write(data))
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror or error}; make room, then give the "
                "same command again: it goes on with the images that are missing"
            ) from error


def require_own(folder: Path) -> None:
    """Refuse a folder that has other images than those of a set: training would take them too.

    Raises:
        ConfigError: there are some, or it is a file.
    """
    if (file := file_in_the_way(folder)) is not None:
        raise ConfigError(f"out={folder} cannot be a folder: {file} is a file; choose another")
    if not folder.is_dir():
        return
    # Listed first: a process that adds images names them in the manifest before.
    found = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    manifest = read_manifest(folder)
    if manifest is None and found:
        raise ConfigError(
            f"out={folder} holds images, such as {found[0]}, but no {MANIFEST} that says how they "
            "were made; choose another folder"
        )
    own = {entry.get("file") for entry in manifest["images"]} if manifest else set()
    strange = [name for name in found if name not in own]
    if strange:
        raise ConfigError(
            f"out={folder} holds images that are not of the set, such as {strange[0]} "
            f"({len(strange)} in all), and training would take them for generated ones; move them "
            "elsewhere, or choose another folder"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder's manifest says; None where there is none.

    Raises:
        ConfigError: it is damaged, or another program's.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = content.get("images") if isinstance(content, dict) else None
        if not (isinstance(images, list) and all(isinstance(entry, dict) for entry in images)):
            raise TypeError("it lists no images")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); restore it, or choose another folder"
        ) from error
    found: dict[str, Any] = content
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
