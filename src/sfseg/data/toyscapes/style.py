"""What a Toyscapes domain looks like, as numbers: the one place to recalibrate its gap."""

import math
from dataclasses import dataclass, replace

import numpy as np

from sfseg.randomness import generator

SHIFTS = {"mild": 0.5, "default": 1.0, "severe": 1.5}
"""Name of a shift -> how far the city lies from the game, in units of ``_GAP`` below."""


@dataclass(frozen=True)
class Style:
    """Camera, street, light, colours, texture and sensor of a domain; defaults are the game.

    Args:
        focal: focal length in image heights; larger looks farther down the street.
        camera_height: metres above the road; moves every contact point with the ground.
        horizon: row of the horizon as a share of the image height (the camera's pitch).
        road_scale: factor of the road's and the sidewalks' widths.
        building_height: factor of the facades' heights.
        traffic: factor of the number of vehicles.
        pedestrians: factor of the number of people on foot.
        two_wheelers: factor of the number of bicycles and motorcycles.
        heavy: factor of the share of trucks and buses and of the chance of a train.
        greenery: share of the street's sides that is planted instead of built up.
        furniture: factor of the number of poles, signs and traffic lights.
        exposure: brightness in stops of the finished image.
        jitter: spread of exposure (stops) and of the sun's direction within the domain.
        sun: share of the light that is directional, so faces differ by orientation.
        shadow: darkness of the shadows on the ground, 0 to 1.
        overcast: sky from blue (0) to grey white (1).
        palette_shift: grey levels by which each class's colours are displaced.
        palette_seed: draws the direction of that displacement for each class.
        saturation: factor of the colours' distance from grey.
        contrast: factor of the distance from middle grey.
        warmth: gain of red against blue, 0 is neutral.
        magenta: gain of red and blue against green, 0 is neutral.
        haze: optical thickness for each 100 m of depth.
        haze_light: grey level of the haze.
        haze_warmth: grey levels that the haze's red lies above its blue.
        texture: factor of all surface textures.
        irregularity: textures from regular tiles (0) to random patches (1).
        blur: standard deviation in pixels of an image 128 rows high.
        noise: standard deviation of the sensor's noise in grey levels.
        vignette: loss of light in the corners, 0 to 1.
        hood: share of the image height hidden by the own car's hood, which is void.
    """

    focal: float = 1.55
    camera_height: float = 1.7
    horizon: float = 0.43
    road_scale: float = 1.0
    building_height: float = 1.0
    traffic: float = 1.0
    pedestrians: float = 1.0
    two_wheelers: float = 1.0
    heavy: float = 1.0
    greenery: float = 0.35
    furniture: float = 1.0
    exposure: float = 0.0
    jitter: float = 0.15
    sun: float = 0.5
    shadow: float = 0.5
    overcast: float = 0.1
    palette_shift: float = 0.0
    palette_seed: int = 0
    saturation: float = 1.15
    contrast: float = 1.05
    warmth: float = 0.0
    magenta: float = 0.0
    haze: float = 0.3
    haze_light: float = 215.0
    haze_warmth: float = -12.0
    texture: float = 1.0
    irregularity: float = 0.0
    blur: float = 0.0
    noise: float = 1.0
    vignette: float = 0.0
    hood: float = 0.0


# What the city at strength 1 has more (or less) than the game, on average over style seeds.
_GAP = {
    "building_height": 0.15,
    "traffic": 0.25,
    "pedestrians": 0.3,
    "two_wheelers": 0.2,
    "furniture": 0.2,
    "jitter": 0.05,
    "sun": -0.25,
    "shadow": -0.25,
    "overcast": 0.55,
    "palette_shift": 20.0,
    "saturation": -0.5,
    "contrast": -0.25,
    "haze": 0.7,
    "texture": 0.25,
    "irregularity": 0.65,
    "blur": 0.55,
    "noise": 7.0,
    "vignette": 0.15,
    "hood": 0.025,
}
# The same for what may go either way: the style seed draws the sign.
_GAP_EITHER_WAY = {
    "focal": 0.15,
    "camera_height": 0.3,
    "horizon": 0.04,
    "road_scale": 0.1,
    "heavy": 0.2,
    "greenery": 0.12,
    "exposure": 0.3,
    "warmth": 0.12,
    "magenta": 0.06,
    "haze_light": 20.0,
    "haze_warmth": 20.0,
}
# Beyond these a street stops being drawable or readable.
_LIMITS = {
    "horizon": (0.3, 0.55),
    "greenery": (0.1, 0.7),
    "sun": (0.0, 1.0),
    "shadow": (0.05, 1.0),
    "overcast": (0.0, 1.0),
    "saturation": (0.2, 2.0),
    "contrast": (0.4, 2.0),
    "haze_light": (120.0, 245.0),
    "irregularity": (0.0, 1.0),
    "hood": (0.0, 0.08),
}


def game_style() -> Style:
    """The source domain: clean, saturated, sunny, with regular textures."""
    return Style()


def city_style(shift: str = "default", style_seed: int = 0) -> Style:
    """The target domain: hazier, greyer, noisier, tinted, seen by another camera.

    Args:
        shift: distance from the game, a key of ``SHIFTS``.
        style_seed: draws the direction of that distance; its length is the same for all.

    Raises:
        ValueError: no such shift.
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift must be one of {list(SHIFTS)}, got {shift!r}; choose one of them")
    rng = generator(style_seed, 0, 0, "toyscapes/style")
    gap = {**_GAP, **_GAP_EITHER_WAY}
    weight = rng.uniform(0.6, 1.4, len(gap))
    weight *= SHIFTS[shift] * math.sqrt(len(gap) / np.square(weight).sum())
    weight[len(_GAP) :] *= rng.choice([-1.0, 1.0], len(_GAP_EITHER_WAY))
    game = game_style()
    values: dict[str, float] = {}
    for (name, offset), factor in zip(gap.items(), weight, strict=True):
        low, high = _LIMITS.get(name, (-math.inf, math.inf))
        values[name] = float(np.clip(getattr(game, name) + factor * offset, low, high))
    return replace(game, palette_seed=style_seed, **values)
