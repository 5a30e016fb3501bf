"""Random windows of a few pictures, each a function of the seed and of its number."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfseg.data.geometry import Image, fitting_size, resize_image
from sfseg.data.images import decode_image, read_bytes
from sfseg.data.replacement import is_black
from sfseg.errors import ConfigError, DataError
from sfseg.randomness import generator
from sfseg.types import size_text

log = logging.getLogger(__name__)

NAMED = 5
"""Pictures that a message names."""


class Crops:
    """Pictures in memory, of which square windows are cut.

    Crop ``n`` is of picture ``n`` modulo their number, at a place that only the seed and ``n``
    decide, so that training goes on anywhere as if it had never stopped.

    Args:
        paths: of the pictures.
        resize: pixels of the shorter side, to which pictures are resized first; None leaves them.
        crop: side of a window in pixels.
        seed: of the places.
        setting: what named the pictures, for messages; crops of two settings lie elsewhere.

    Raises:
        ConfigError: a picture is smaller than a crop, as it is or once it is resized.
        DataError: a picture cannot be read, or is black.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        resize: int | None,
        crop: int,
        seed: int,
        setting: str = "images",
    ) -> None:
        if resize is not None and resize < crop:
            raise ConfigError(
                f"crop={crop} does not fit into pictures whose shorter side is resize={resize}; "
                f"set crop={resize} or less, or resize={crop} or more"
            )
        self.crop, self.seed, self.setting = crop, seed, setting
        self.paths = list(paths)
        self.digests: list[str] = []
        self.pictures: list[Image] = []
        broken: list[str] = []
        small: list[tuple[Path, tuple[int, int]]] = []
        for path in paths:
            try:
                picture = self._read(path)
            except DataError as error:
                broken.append(str(error))
                continue
            full = (picture.shape[0], picture.shape[1])
            if min(full) < crop:
                small.append((path, full))
                continue
            size = fitting_size(resize, full)
            if size[0] > full[0]:
                log.info("%s is enlarged from %s to %s", path, size_text(full), size_text(size))
            self.pictures.append(resize_image(picture, size))
        self._require_usable(broken, small)

    def batch(self, first: int, number: int) -> Tensor:
        """Crops ``first`` and on: (B, 3, crop, crop) float32 in [-1, 1], as a VAE expects them."""
        windows = np.stack([self._window(n) for n in range(first, first + number)])
        return torch.from_numpy(windows).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _read(self, path: Path) -> Image:
        data = read_bytes(path)
        picture = decode_image(data, path)
        if is_black(picture):
            raise DataError(f"{path} is black, so that nothing can be learnt of it")
        self.digests.append(hashlib.sha256(data).hexdigest())
        return picture

    def _require_usable(
        self, broken: Sequence[str], small: Sequence[tuple[Path, tuple[int, int]]]
    ) -> None:
        several = len(self.paths) > 1
        away = "take them out of the folder" if several else "take a larger picture"
        if broken:
            way_out = "mend them, or take them out of the folder" if several else "take another"
            raise DataError(f"{self.setting}: {_listed(broken)}; {way_out}")
        if small:
            least = min(min(size) for _, size in small)
            sizes = [f"{path} has {size_text(size)} pixels" for path, size in small]
            raise ConfigError(
                f"{self.setting}: {_listed(sizes)}, fewer than crop={self.crop}: what is learnt of "
                f"that would be blur. Set crop={least} or less and resize={least}, or {away}"
            )

    def _window(self, number: int) -> Image:
        picture = self.pictures[number % len(self.pictures)]
        rng = generator(self.seed, 0, number, f"generation/{self.setting}")
        top = rng.integers(picture.shape[0] - self.crop + 1)
        left = rng.integers(picture.shape[1] - self.crop + 1)
        return picture[top : top + self.crop, left : left + self.crop]


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more
