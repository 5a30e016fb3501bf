"""A folder of generated images and what ``manifest.json`` says of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfseg.data.geometry import Image
from sfseg.data.replacement import is_black
from sfseg.errors import ConfigError, OutputError
from sfseg.generation.plan import Plan
from sfseg.report.drawing import png
from sfseg.storage.atomic import write_whole

MANIFEST = "manifest.json"
BLACK = ".black"
"""Suffix of the empty file that stands for an image that was black and is not kept."""


class ImageSet:
    """The images of a plan in a folder, written by one process or by several at a time.

    Every file appears whole or not at all, so what is there is finished.

    Args:
        folder: made if need be.
        plan: its images.
        record: model, settings and whatever else the manifest says of how the images were made.
        decisive: entries of ``record`` that images depend on.

    Raises:
        ConfigError: the folder holds images of another plan or record, or of none.
        OutputError: nothing can be written.
    """

    def __init__(
        self, folder: Path, plan: Plan, record: Mapping[str, Any], decisive: Sequence[str]
    ) -> None:
        self.folder = folder
        self.plan = plan
        self._record = {**record, "seed": plan.seed, "prompts": list(plan.prompts)}
        self._decisive = [*decisive, "seed", "prompts"]
        self._length = plan.n_images
        before = read_manifest(folder)
        if before is not None:
            self._require_same(before)
            # A smaller set than before: those beyond it stay what they are.
            self._length = max(self._length, len(before["images"]))
        elif folder.is_dir() and any(folder.glob("*.png")):
            raise ConfigError(
                f"out={folder} holds images, but no {MANIFEST} that says how they were made; "
                "choose another folder"
            )
        self.write_manifest()

    def has(self, number: int) -> bool:
        """Whether an image is finished, or known to be black."""
        return self._path(number).exists() or self.is_black(number)

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


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder's manifest says; None where there is none.

    Raises:
        ConfigError: it is damaged, or another program's.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(content, dict) and isinstance(content.get("images"), list)):
            raise TypeError("it lists no images")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); restore it, or choose another folder"
        ) from error
    return content


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
