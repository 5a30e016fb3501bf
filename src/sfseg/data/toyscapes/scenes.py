"""Toyscapes: a benchmark of drawn street scenes that needs no download.

Two domains, a computer game and a city, show the same 19 Cityscapes classes with exact labels.
They differ as such domains do: camera, street, light, haze, colours, textures and sensor, all
of it numbers in :mod:`sfseg.data.toyscapes.style`. A scene is a pure function of domain,
split, seed and index.
"""

from typing import Any, Literal

import numpy as np

from sfseg.data.toyscapes.camera import photograph
from sfseg.data.toyscapes.canvas import Array, Canvas
from sfseg.data.toyscapes.street import Street
from sfseg.data.toyscapes.style import SHIFTS, Style, city_style, game_style
from sfseg.labels import CITYSCAPES
from sfseg.randomness import generator
from sfseg.types import IGNORE

DOMAINS = ("game", "city")
SPLITS = ("train", "val", "test")


class Toyscapes:
    """Scenes drawn on demand, with exact labels, each drawn once per process.

    Args:
        domain: "game" (the source) or "city" (the target).
        split: "train", "val" or "test"; their scenes have nothing in common.
        length: number of scenes.
        size: (height, width) in pixels; the scene scales with the height.
        seed: draws other scenes of the same domain.
        shift: how far the city's look is from the game's: "mild", "default" or "severe".
        style_seed: draws another city of the same distance from the game.
    """

    labels = CITYSCAPES
    has_labels: bool = True

    def __init__(
        self,
        domain: Literal["game", "city"],
        split: Literal["train", "val", "test"],
        *,
        length: int,
        size: tuple[int, int] = (128, 256),
        seed: int = 0,
        shift: str = "default",
        style_seed: int = 0,
    ) -> None:
        for name, value, options in (
            ("domain", domain, DOMAINS), ("split", split, SPLITS), ("shift", shift, tuple(SHIFTS)),
        ):  # fmt: skip
            if value not in options:
                raise ValueError(f"{name} must be one of {list(options)}, got {value!r}")
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}; ask for one scene or more")
        if size[0] < 64 or size[1] < 128:
            raise ValueError(
                f"size must be at least (64, 128) as (height, width), got {tuple(size)}; "
                "poles and signs vanish in smaller scenes"
            )
        for name, number in (("seed", seed), ("style_seed", style_seed)):
            if number < 0:
                raise ValueError(f"{name} must be at least 0, got {number}; take its opposite")
        self.domain = domain
        self.split = split
        self.seed = seed
        self.style = game_style() if domain == "game" else city_style(shift, style_seed)
        self._length = length
        self._size = (int(size[0]), int(size[1]))
        self._scenes: dict[int, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the drawn scenes: a worker draws its own faster than it unpickles them."""
        return {**self.__dict__, "_scenes": {}}

    def __len__(self) -> int:
        return self._length

    def name(self, index: int) -> str:
        return f"{self.domain}/{self.split}/{self._checked(index):06d}.png"

    def size(self, index: int) -> tuple[int, int]:
        self._checked(index)
        return self._size

    def image(self, index: int) -> Array:
        """(H, W, 3) uint8 RGB."""
        return self._scene(index)[..., :3].copy()

    def label(self, index: int) -> Array:
        """(H, W) uint8 class ids, 255 on the own car's hood."""
        return self._scene(index)[..., 3].copy()

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(f"index must be in 0..{self._length - 1}, got {index}")
        return index

    def _scene(self, index: int) -> Array:
        if self._checked(index) not in self._scenes:
            purpose = f"toyscapes/{self.domain}/{self.split}"
            rng = generator(self.seed, 0, index, purpose)
            self._scenes[index] = draw_scene(self.style, self._size, rng)
        return self._scenes[index]


def draw_scene(style: Style, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """One scene as (H, W, 4) uint8: RGB and class id."""
    canvas = Canvas(size, style, rng)
    Street(canvas).paint()
    scene = canvas.pixels
    scene[..., :3] = photograph(canvas, rng)
    rows = round(style.hood * canvas.height)
    if rows:
        scene[-rows:, :, :3] = scene[-rows:, :, :3] // 4 + 20
        scene[-rows:, :, 3] = IGNORE
    return scene
