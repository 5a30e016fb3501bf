"""The drawing surface of Toyscapes: perspective, light and haze over flat polygons.

Metres are X to the right, Y up, Z forward, with the camera above X = Z = 0. A surface is a
:class:`Face` with coordinates s and t in [0, 1]; what is painted on it (windows, wheels, a
head) is given in s and t, so one description serves every position, size and view.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from sfseg.data.toyscapes.style import Style
from sfseg.randomness import generator

Array = np.ndarray[Any, np.dtype[Any]]
Triple = tuple[float, float, float]
Point = tuple[float, float]

_ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False, dtype=np.float32)
_RING = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)


def rects(*boxes: tuple[float, float, float, float]) -> Array:
    """Boxes (s0, t0, s1, t1) as an (N, 4, 2) array of corners."""
    return np.array([[(a, b), (c, b), (c, d), (a, d)] for a, b, c, d in boxes], np.float32)


def discs(*circles: tuple[float, float, float, float]) -> Array:
    """Ellipses (s, t, radius along s, radius along t) as an (N, 12, 2) array of corners."""
    values = np.array(circles, np.float32)[:, None]
    rings: Array = values[..., :2] + values[..., 2:] * _RING
    return rings


def shape(*corners: Point) -> Array:
    """One polygon as a (1, P, 2) array."""
    return np.array([corners], np.float32)


def strips(width: float, *lines: tuple[Point, Point]) -> Array:
    """Straight tubes of a width (along s) from point to point."""
    half = width / 2
    return np.array(
        [[(a - half, b), (a + half, b), (c + half, d), (c - half, d)] for (a, b), (c, d) in lines],
        np.float32,
    )


@lru_cache(maxsize=256)
def grid(columns: int, rows: int, fill: float, base: float = 0.0) -> Array:
    """A regular grid of boxes, each filling a share of its cell, above ``base``."""
    gap = (1 - fill) / 2
    step = (1 - base) / rows
    return rects(
        *(
            ((i + gap) / columns, base + (j + gap) * step,
             (i + 1 - gap) / columns, base + (j + 1 - gap) * step)
            for i in range(columns) for j in range(rows)
        )
    )  # fmt: skip


def moved(shapes: Array, scale: Point, by: Point) -> Array:
    """Shapes scaled, then shifted, along s and t."""
    result: Array = shapes * np.array(scale, np.float32) + np.array(by, np.float32)
    return result


WHOLE = rects((0, 0, 1, 1))


class Face(NamedTuple):
    """A plane in the image: (s, t) @ axes + origin gives homogeneous pixels.

    Args:
        axes: (2, 3).
        origin: (3,).
        gain: share of a colour that light and haze let through.
        veil: RGB that the haze adds.
    """

    axes: Array
    origin: Array
    gain: float
    veil: Triple


class Canvas:
    """Colour and label in one four-channel image, so that no stroke can miss one of them.

    Args:
        size: (height, width) in pixels.
        style: the look of the domain.
        rng: source of everything random in this scene.
    """

    def __init__(self, size: tuple[int, int], style: Style, rng: np.random.Generator) -> None:
        self.height, self.width = size
        self.pixels = np.zeros((*size, 4), np.uint8)
        self.shadow = np.full(size, 255, np.uint8)
        self.style = style
        self.random = rng.random
        self.focal = style.focal * self.height
        self.eye = style.camera_height * self.between(0.95, 1.05)
        self.horizon = self.height * (style.horizon + self.between(-0.02, 0.02))
        self.centre = self.width * self.between(0.47, 0.53)
        warm, level = style.haze_warmth / 2, style.haze_light
        self.haze = (level + warm, level, level - warm)
        self.sun = math.pi * self.between(-1, 1)
        self.displaced = _displacement(style.palette_shift, style.palette_seed)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random() * len(options))]

    def varied(self, colour: Triple, amount: float = 14.0) -> Triple:
        """The colour of one specimen: brighter or darker, and a little off in hue."""
        level, hue = self.between(-1.5, 1.5) * amount, self.between(-0.5, 0.5) * amount
        r, g, b = colour
        return r + level + hue, g + level, b + level - hue

    def sees(self, x: float, z: float) -> bool:
        """Whether a point is not too far to a side to be in the image."""
        return abs(x) * self.focal < 0.53 * self.width * z

    def lit(self, right: float, forward: float) -> float:
        """Brightness of an upright surface by its normal."""
        facing = right * math.sin(self.sun) - forward * math.cos(self.sun)
        return 1 - 0.45 * self.style.sun + 0.6 * self.style.sun * max(0.0, facing)

    def face(self, at: Triple, s: Triple, t: Triple, light: float, depth: float) -> Face:
        f, cx, cy = self.focal, self.centre, self.horizon
        axes = np.array([[cx * z + f * x, cy * z - f * y, z] for x, y, z in (s, t)])
        x, y, z = at
        origin = np.array([cx * z + f * x, cy * z + f * (self.eye - y), z])
        clear = math.exp(-depth * self.style.haze / 100)
        r, g, b = self.haze
        fog = 1 - clear
        return Face(axes, origin, clear * light, (fog * r, fog * g, fog * b))

    def front(self, x: float, z: float, width: float, height: float, y: float = 0.0) -> Face:
        """A plane that faces the camera, centred on x."""
        at = (x - width / 2, y, z)
        return self.face(at, (width, 0, 0), (0, height, 0), self.lit(0, -1), z)

    def side(self, x: float, z: float, length: float, height: float) -> Face:
        """A plane along the street; s grows with depth."""
        light = self.lit(-math.copysign(1, x), 0)
        return self.face((x, 0, z), (0, 0, length), (0, height, 0), light, z + length / 2)

    def strip(self, x: float, width: float, near: float, far: float) -> Face:
        """A plane on the ground; it gets its haze row by row, later."""
        return self.face((x, 0, near), (width, 0, 0), (0, 0, far - near), 1.0, 0.0)

    def fill(self, face: Face, shapes: Array, colour: Triple, label: int) -> None:
        """Paints shapes (N, P, 2) of one colour and class."""
        gain, (r, g, b), veil = face.gain, colour, face.veil
        dr, dg, db = self.displaced[label]
        ink = (gain * (r + dr) + veil[0], gain * (g + dg) + veil[1], gain * (b + db) + veil[2])
        points = shapes.reshape(-1, 2).dot(face.axes)
        points += face.origin
        # Sub-pixel corners (4 fractional bits) keep far objects from jumping in size.
        pixels = (points[:, :2] * (16 / points[:, 2:])).astype(np.int32).reshape(shapes.shape)
        # One call for many is fast, but leaves holes where they overlap; grids do not.
        for group in (list(pixels),) if len(pixels) > 8 else ([polygon] for polygon in pixels):
            cv2.fillPoly(self.pixels, group, (*ink, label), cv2.LINE_8, 4)

    def cast_shadows(self, footprints: Array) -> None:
        """Darkens ``shadow`` beside things given as rows (x, z, width, height)."""
        x, z, width, height = footprints.T
        reach = np.minimum(height * 0.8, 2.5)
        slide, back = -math.sin(self.sun) * reach, 0.5 * math.cos(self.sun) * reach
        far = np.maximum(z + 0.8 + back, 1)
        left, right, near = x - width / 2, x + width / 2, z - 0.1
        across = np.stack([left, right, right + slide, left + slide], axis=1)
        along = np.stack([near, near, far, far], axis=1)
        u = self.centre + self.focal * across / along
        v = self.horizon + self.focal * self.eye / along
        dark = int(255 * (1 - self.style.shadow))
        for polygon in np.stack([u, v], axis=-1).astype(np.int32):
            cv2.fillConvexPoly(self.shadow, polygon, dark)


@lru_cache(maxsize=8)
def _displacement(shift: float, seed: int) -> list[Triple]:
    """An RGB offset for each class, most of it in brightness."""
    spread = generator(seed, 0, 0, "toyscapes/palette").standard_normal((19, 3))
    spread = 0.6 * spread + 0.8 * spread.mean(axis=1, keepdims=True)
    return [(r, g, b) for r, g, b in (shift * np.clip(spread, -1.6, 1.6)).tolist()]
