"""Snow and frost on images, painted from noise.

After the corruptions of the same names of ImageNet-C (Hendrycks and Dietterich, ICLR 2019,
arXiv:1903.12261), of which Generalize then Adapt uses severities 1 to 3. Those of frost are
photographs; here ice is drawn as well.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

Images = Float[Tensor, "B 3 H W"]
Layer = Float[Tensor, "B 1 H W"]

_STREAK = 9  # length of a flake's trace in pixels, odd
_ICE = (0.86, 0.93, 1.0)


@torch.no_grad()
def snow(image: Images, generator: torch.Generator) -> Images:
    """Falling flakes with a trace, in front of a paler scene; severity 1 to 3 for each image."""
    severity = _severity(image, generator)
    density = _by_severity(severity, (0.005, 0.01, 0.02))
    pale = _by_severity(severity, (0.15, 0.25, 0.35))
    height, width = image.shape[-2:]
    grid = (len(image), 1, math.ceil(height / 2), math.ceil(width / 2))
    flakes = torch.rand(grid, generator=generator, device=image.device) < density
    flakes = F.interpolate(flakes.float(), size=(height, width), mode="bilinear")
    streaks = _motion(flakes, generator).clamp(0, 1)
    hazy = image + pale * (1 - image)
    return hazy + 0.9 * streaks * (1 - hazy)


@torch.no_grad()
def frost(image: Images, generator: torch.Generator) -> Images:
    """Ice on the lens, thicker towards the borders; severity 1 to 3 for each image."""
    severity = _severity(image, generator)
    crystals = sum(_ridges(image, generator, cell=cell) for cell in (4, 8, 16)) / 3
    thickness = 0.25 + 0.35 * _off_centre(image) + 0.4 * crystals  # in [0, 1]
    cover = _by_severity(severity, (0.45, 0.65, 0.85)) * thickness
    ice = torch.tensor(_ICE, device=image.device).view(3, 1, 1)
    return image + cover * (ice - image)


def _severity(image: Images, generator: torch.Generator) -> Integer[Tensor, " B"]:
    """0 to 2, for severities 1 to 3."""
    return torch.randint(3, (len(image),), generator=generator, device=image.device)


def _by_severity(
    severity: Integer[Tensor, " B"], values: tuple[float, float, float]
) -> Float[Tensor, "B 1 1 1"]:
    return torch.tensor(values, device=severity.device)[severity].view(-1, 1, 1, 1)


def _motion(flakes: Layer, generator: torch.Generator) -> Layer:
    """Every flake drawn out along a line, in a direction of each image's own."""
    size, half, device = len(flakes), _STREAK // 2, flakes.device
    angle = torch.rand(size, 1, 1, generator=generator, device=device, dtype=flakes.dtype)
    angle = math.pi * angle
    along = torch.arange(-half, half + 1.0, device=device, dtype=flakes.dtype)
    y, x = along[:, None], along
    off_line = (x * angle.sin() - y * angle.cos()).abs()  # (B, 9, 9) pixels
    line = (1 - off_line).clamp_min(0) * (x.square() + y.square() <= half**2)
    streaks = F.conv2d(flakes.transpose(0, 1), line[:, None], padding=half, groups=size)
    return streaks.transpose(0, 1)


def _ridges(image: Images, generator: torch.Generator, *, cell: int) -> Layer:
    """Bright lines where smooth noise changes its sign, about ``cell`` pixels apart; in [0, 1]."""
    height, width = image.shape[-2:]
    grid = (len(image), 1, height // cell + 2, width // cell + 2)
    noise = torch.randn(grid, generator=generator, device=image.device, dtype=image.dtype)
    smooth = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=True)
    return (1 - smooth.abs()).clamp_min(0) ** 3


def _off_centre(image: Images) -> Float[Tensor, "H W"]:
    """0 in the middle of the image, 1 on its borders."""
    y, x = (torch.linspace(-1, 1, side, device=image.device).abs() for side in image.shape[-2:])
    return torch.maximum(y[:, None], x).square()
