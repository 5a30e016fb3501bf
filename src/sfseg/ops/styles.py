"""Images in other styles, so that a source model does not learn the style of its source.

Generalize then Adapt (Kundu et al., ICCV 2021) shows its source model images through AdaIN,
StyleAug, two kinds of FDA, snow, frost and a cartoon filter. These are stand-ins that need neither
a trained network nor pictures: where a style is taken from an image, it is another one of the
batch. All draw from a generator on the image's device and are without gradient.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sfseg.ops.styles_cartoon import cartoon
from sfseg.ops.styles_weather import frost, snow

Images = Float[Tensor, "B 3 H W"]
Style = Callable[[Tensor, torch.Generator], Tensor]
"""RGB images (B, 3, H, W) in [0, 1] and a generator to images alike."""


@torch.no_grad()
def adain(image: Images, generator: torch.Generator, *, alpha: float = 0.3) -> Images:
    """Mean and deviation of each channel, moved towards those of another image.

    Adaptive instance normalisation (Huang and Belongie, ICCV 2017) of the pixels themselves. The
    paper applies it to features of a VGG, with paintings for styles, which also changes textures.

    Args:
        image: RGB in [0, 1].
        generator: used where the batch has no other image.
        alpha: how far, from 0 (not at all) to 1; 0.3 in Uni-UVPT's code.
    """
    style = _another(image, generator)
    mean, deviation = _statistics(image)
    style_mean, style_deviation = _statistics(style)
    factor = 1 + alpha * (style_deviation / deviation.clamp_min(1e-5) - 1)
    # A nearly constant image has no contrast that could be raised, only rounding errors.
    moved = (image - mean) * factor.clamp_max(10) + mean + alpha * (style_mean - mean)
    return moved.clamp(0, 1)


@torch.no_grad()
def colour(image: Images, generator: torch.Generator) -> Images:
    """A random linear map of the colours around the image's mean, contrast and brightness.

    Stands in for StyleAug (Jackson et al., CVPR workshops 2019), a trained network.
    """
    mixing = torch.eye(3, device=image.device, dtype=image.dtype) + _uniform(
        image, generator, -0.2, 0.2, 3, 3
    )
    contrast = _uniform(image, generator, 0.6, 1.4, 1, 1)
    brightness = _uniform(image, generator, -0.15, 0.15, 3, 1)
    mean = image.mean(dim=(2, 3))[..., None]  # (B, 3, 1)
    changed = contrast * (mixing @ (image.flatten(2) - mean)) + mean + brightness
    return changed.view_as(image).clamp(0, 1)


@torch.no_grad()
def fda(image: Images, generator: torch.Generator, *, share: float = 0.005) -> Images:
    """Amplitudes of low frequencies from another image; see :func:`swap_amplitude`."""
    return swap_amplitude(image, _another(image, generator), share=share)


@torch.no_grad()
def fda_noise(image: Images, generator: torch.Generator, *, share: float = 0.005) -> Images:
    """Amplitudes of low frequencies from noise; see :func:`swap_amplitude`."""
    return swap_amplitude(image, _noise(image, generator), share=share)


@torch.no_grad()
def clean(image: Images, generator: torch.Generator) -> Images:
    """The image as it is."""
    return image.detach()


def swap_amplitude(image: Images, style: Images, *, share: float) -> Images:
    """Images whose low frequencies have the amplitudes of others, as in FDA.

    Equation 3 of Yang and Soatto, FDA, CVPR 2020, arXiv:2004.05498; phases, and so what is where,
    remain. The mean colour, frequency 0, always changes.

    Args:
        image: RGB in [0, 1].
        style: RGB in [0, 1].
        share: the highest frequency that changes, in waves per pixel of the shorter side; the
            paper's beta or L.

    Raises:
        ValueError: ``share`` is negative or not below 0.5, the highest frequency of an image.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"share must be at least 0 and below 0.5, got {share}")
    height, width = image.shape[-2:]
    reach = int(min(height, width) * share)
    # The transform of a real image is symmetric: half of its columns are enough.
    spectrum, other = torch.fft.rfft2(image), torch.fft.rfft2(style)
    rows = torch.arange(-reach, reach + 1, device=image.device)
    low = spectrum[..., rows, : reach + 1]
    amplitude = other[..., rows, : reach + 1].abs()
    spectrum[..., rows, : reach + 1] = torch.polar(amplitude, low.angle())
    swapped: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return swapped.clamp(0, 1)


STYLES: dict[str, Style] = {
    "adain": adain,
    "colour": colour,
    "fda_noise": fda_noise,
    "fda": fda,
    "snow": snow,
    "frost": frost,
    "cartoon": cartoon,
    "clean": clean,
}
"""Every style by its name."""


def _another(image: Images, generator: torch.Generator) -> Images:
    return image.roll(1, dims=0) if len(image) > 1 else _noise(image, generator)


def _noise(image: Images, generator: torch.Generator) -> Images:
    """Noise around a random colour for each image: plain noise is always equally grey."""
    mean = _uniform(image, generator, 0.3, 0.7, 3, 1, 1)
    spread = _uniform(image, generator, 0.1, 0.4, 1, 1, 1)
    return (mean + spread * _uniform(image, generator, -1.0, 1.0, *image.shape[1:])).clamp(0, 1)


def _uniform(
    image: Images, generator: torch.Generator, low: float, high: float, *shape: int
) -> Float[Tensor, "B ..."]:
    unit = torch.rand(
        len(image), *shape, generator=generator, device=image.device, dtype=image.dtype
    )
    return low + (high - low) * unit


def _statistics(image: Images) -> tuple[Float[Tensor, "B 3 1 1"], Float[Tensor, "B 3 1 1"]]:
    variance, mean = torch.var_mean(image, dim=(2, 3), correction=0, keepdim=True)
    return mean, variance.sqrt()
