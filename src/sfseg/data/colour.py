"""Colour distortions; the only module that touches albumentations.

albumentations 2.0.8 copies its generator into every worker, so that workers and passes repeat
each other's distortions (AlbumentationsX#266). Here each sample sets the seed itself.
"""

import os
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from sfseg.errors import ConfigError


class ColourJitter:
    """Random brightness, contrast, saturation and hue, then an optional blur, on uint8 RGB.

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
        for name, value in (("probability", probability), ("blur", blur)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {value}")
        refuse_agpl_fork()
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no version check over the net
        import albumentations

        jitter = albumentations.ColorJitter(
            brightness=_around_one(brightness),
            contrast=_around_one(contrast),
            saturation=_around_one(saturation),
            hue=(-hue, hue),
            p=probability,
        )
        soften = albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.15, 1.15), p=blur)
        self.compose = albumentations.Compose([jitter, soften] if blur else [jitter])

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """The distorted (H, W, 3) image; the same for the same seed."""
        self.compose.set_random_seed(seed)
        distorted: NDArray[np.uint8] = self.compose(image=image)["image"]
        return distorted


def _around_one(amount: float) -> tuple[float, float]:
    return (max(0.0, 1 - amount), 1 + amount)


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
