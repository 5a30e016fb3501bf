"""Views that are harder for a student than for its teacher: other colours, hidden blocks.

All draw from torch's global generator on the images' device, for every image by itself.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sfseg.ops.padding import continued, each_picture

Images = Float[Tensor, "B 3 H W"]

LUMA = (0.299, 0.587, 0.114)
SIGMA = (0.15, 1.15)
"""Of the blur, in pixels; DACS draws from this range for crops of 512."""
RADIUS = 4
"""Of the blur's kernel, 3.5 of the largest sigma."""


def block_mask(
    image: Shaped[Tensor, "B C H W"], *, ratio: float, block: int
) -> Bool[Tensor, "B 1 H W"]:
    """Which pixels of an image stay visible: squares from the top left, each hidden by chance.

    Equation 2 of masked image consistency (Hoyer et al., MIC, CVPR 2023).

    Args:
        image: for its size alone.
        ratio: probability of a square to be hidden, in [0, 1]; 0.7 in MIC.
        block: side of a square in pixels; 64 in MIC for crops of 1024, 32 for 512.

    Raises:
        ValueError: a ratio outside [0, 1], or a block below 1.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in [0, 1], got {ratio}")
    if block < 1:
        raise ValueError(f"block must be at least 1 pixel, got {block}")
    height, width = image.shape[-2:]
    rows, columns = -(-height // block), -(-width // block)
    kept = torch.rand(len(image), 1, rows, columns, device=image.device) >= ratio
    blocks = kept.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    return blocks[..., :height, :width]


@torch.no_grad()
def strong_view(
    image: Images,
    *,
    strength: float,
    hue: float = 0.0,
    probability: float = 0.8,
    blur_probability: float = 0.5,
    valid: Bool[Tensor, "B H W"] | None = None,
) -> Images:
    """Hue, brightness, contrast and saturation changed at random, then a slight blur, as in DACS.

    Args:
        image: RGB in [0, 1].
        strength: largest relative change of the last three; 0.2 in DACS, 0.5 in DT-ST.
        hue: largest shift of the hue, in turns; 0.2 in DACS.
        probability: share of the images whose colours change.
        blur_probability: share of the images that are blurred.
        valid: pixels that belong to pictures; others stay as they are, and pictures are changed as
            if they were alone. None: all.
    """
    change = torch.rand(3, len(image), device=image.device).mul(2).sub(1) * strength
    changed = torch.rand(len(image), device=image.device) < probability
    coloured = image
    if hue:
        turns = torch.rand(len(image), device=image.device).mul(2).sub(1) * hue
        coloured = shift_hue(image, turns * changed)
    coloured = scale_colours(coloured, *(1 + change * changed).unbind(), valid=valid)
    least, most = SIGMA
    sigma = least + (most - least) * torch.rand(len(image), device=image.device)
    blurred = torch.rand(len(image), device=image.device) < blur_probability
    strong = blur(continued(coloured, valid), sigma * blurred)
    return strong if valid is None else torch.where(valid[:, None], strong, image)


def shift_hue(image: Images, turns: Float[Tensor, " B"]) -> Images:
    """Colours moved around the colour circle, with their value and saturation as they are (HSV).

    Args:
        image: RGB in [0, 1].
        turns: for each image; 1/3 makes red green, whole numbers change nothing.
    """
    value, brightest = image.max(dim=1, keepdim=True)
    chroma = value - image.amin(dim=1, keepdim=True)
    # The two channels after the brightest one say where between its neighbours the hue lies.
    after, before = (image.gather(1, (brightest + step) % 3) for step in (1, 2))
    hue = 2 * brightest + (after - before) / chroma.clamp_min(torch.finfo(image.dtype).tiny)
    hue = hue + 6 * turns[:, None, None, None]
    channels = []
    for start in (5, 3, 1):  # red, green, blue
        place = (hue + start) % 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.cat(channels, dim=1)


def scale_colours(
    image: Images,
    brightness: Float[Tensor, " B"],
    contrast: Float[Tensor, " B"],
    saturation: Float[Tensor, " B"],
    *,
    valid: Bool[Tensor, "B H W"] | None = None,
) -> Images:
    """Scale saturation about a pixel's grey, contrast about the mean grey, then brightness.

    Args:
        image: RGB in [0, 1]; what leaves this range is cut off.
        brightness: factor for each image; 1 changes nothing. Likewise the others.
        contrast: the same.
        saturation: the same.
        valid: pixels whose mean grey it is; None: all.
    """
    brightness, contrast, saturation = (
        factor[:, None, None, None] for factor in (brightness, contrast, saturation)
    )
    # Sums, not matrix products, which autocast would compute in half precision.
    luma = torch.tensor(LUMA, device=image.device)[:, None, None]
    grey = (image * luma).sum(dim=1, keepdim=True)
    means = [own.mean(dim=(2, 3), keepdim=True) for own in each_picture(grey, valid)]
    mean = torch.cat(means)
    coloured = saturation * image + (1 - saturation) * grey
    return (brightness * (contrast * coloured + (1 - contrast) * mean)).clamp(0, 1)


def blur(image: Images, sigma: Float[Tensor, " B"]) -> Images:
    """Gaussian blur; border pixels are continued outside.

    Args:
        image: RGB.
        sigma: deviation for each image in pixels, up to 1.15; 0 leaves an image as it is.
    """
    offset = torch.arange(-RADIUS, RADIUS + 1, device=image.device)
    width = sigma.clamp_min(1e-3)[:, None]
    kernel = (-offset.square() / (2 * width.square())).exp()
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (B, taps)
    for axis in (2, 3):
        margin = (RADIUS, RADIUS, 0, 0) if axis == 3 else (0, 0, RADIUS, RADIUS)
        padded = F.pad(image, margin, mode="replicate")
        size = image.shape[axis]
        image = torch.zeros_like(image)
        for start, tap in enumerate(kernel.unbind(dim=1)):
            image = image.addcmul(padded.narrow(axis, start, size), tap[:, None, None, None])
    return image
