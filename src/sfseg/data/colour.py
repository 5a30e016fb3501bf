"""Colour distortions of uint8 RGB images; each is a pure function of image and seed.

:class:`ColourJitter` is the default. :class:`Albumentations` takes any of that library's
pixel transforms; it is the only place that touches the library, whose generator is copied
into every worker, so that workers and passes repeat each other's distortions
(AlbumentationsX#266). Here each sample sets the seed itself.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.errors import ConfigError

Image = NDArray[np.uint8]
Distortion = Callable[[Image, int], Image]
"""(H, W, 3) pixels and a seed to distorted pixels."""

LUMA = np.array([0.299, 0.587, 0.114])


class ColourJitter:
    """Random brightness, contrast, saturation and hue, then an optional blur.

    The first three are affine maps of the RGB vector, so one matrix does them without rounding
    in between; with the hue's two conversions that is half the time of separate steps.

    Args:
        brightness: largest relative change, as in torchvision's ColorJitter; likewise
            ``contrast`` and ``saturation``.
        hue: largest shift as a share of the colour circle, in [0, 0.5].
        probability: share of the images whose colours change.
        blur: share of the images that are blurred, sigma 0.15 to 1.15 pixels.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.05,
        probability: float = 0.8,
        blur: float = 0.0,
    ) -> None:
        for name, share in (("probability", probability), ("blur", blur)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {share}")
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, amount in amounts.items():
            if amount < 0:
                raise ValueError(f"{name} must be a relative change of at least 0, got {amount}")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue must be a share of the circle in [0, 0.5], got {hue}")
        self.amounts = tuple(amounts.values())
        self.hue = hue
        self.probability = probability
        self.blur = blur

    def __call__(self, image: Image, seed: int) -> Image:
        """The distorted (H, W, 3) image; the same for the same seed."""
        rng = np.random.default_rng(seed)
        if rng.random() < self.probability:
            factors = [rng.uniform(max(0.0, 1 - amount), 1 + amount) for amount in self.amounts]
            image = scale_colours(image, *factors)
            if self.hue:
                image = shift_hue(image, rng.uniform(-self.hue, self.hue))
        if self.blur and rng.random() < self.blur:
            image = _as_uint8(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.15, 1.15)))
        return image


def scale_colours(image: Image, brightness: float, contrast: float, saturation: float) -> Image:
    """Scale brightness, contrast about the mean grey, and saturation about each pixel's grey."""
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    grey = float(LUMA @ np.array(cv2.mean(image)[:3]))
    offset = np.full((3, 1), brightness * (1 - contrast) * grey)
    return _as_uint8(cv2.transform(image, np.hstack([matrix, offset]).astype(np.float32)))


def shift_hue(image: Image, shift: float) -> Image:
    """Turn the hue by a share of the circle."""
    # Hue in 0..255: uint8 wraps around as the circle does.
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(256 * shift) % 256)
    return _as_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


class Albumentations:
    """Any pixel transforms of albumentations 2.0.8, one after the other.

    Args:
        transforms: built transforms, for example from ``_target_: albumentations.CLAHE``; those
            that move pixels would part image and label and are refused.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        refuse_agpl_fork()
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no version check over the net
        import albumentations

        for transform in _leaves(transforms):
            if not isinstance(transform, albumentations.ImageOnlyTransform):
                raise ValueError(
                    f"transforms must leave pixels in place, got {type(transform).__name__}; "
                    "scale, crop and flip belong to data.source_view and data.target_view"
                )
        self.compose = albumentations.Compose(list(transforms))

    def __call__(self, image: Image, seed: int) -> Image:
        """The distorted (H, W, 3) image; the same for the same seed."""
        self.compose.set_random_seed(seed)
        distorted: Image = self.compose(image=np.ascontiguousarray(image))["image"]
        return distorted


def _leaves(transforms: Sequence[Any]) -> Iterator[Any]:
    """The transforms inside ``OneOf``, ``Sequential`` and the like."""
    for transform in transforms:
        if hasattr(transform, "transforms"):
            yield from _leaves(transform.transforms)
        else:
            yield transform


def refuse_agpl_fork() -> None:
    """Raise if "albumentations" would import the AGPL-licensed successor."""
    try:
        found = version("albumentationsx")
    except PackageNotFoundError:
        return
    raise ConfigError(
        f"albumentationsx {found} (AGPL-3.0) is installed and takes the name albumentations; "
        "remove it: pip uninstall albumentationsx && pip install --force-reinstall "
        "albumentations==2.0.8"
    )


def _as_uint8(image: object) -> Image:
    return np.asarray(image, dtype=np.uint8)
