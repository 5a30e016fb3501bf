"""Colours as object detectors distort them (Liu et al., SSD, ECCV 2016), image by image."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfseg.ops.masking import shift_hue

BRIGHTNESS = 32 / 255
CONTRAST = SATURATION = 0.5
HUE = 18 / 180

Images = Float[Tensor, "B 3 H W"]


def photometric(image: Images, valid: Bool[Tensor, "B H W"] | None = None) -> Images:
    """Brightness, contrast, saturation and hue changed at random, each of half of the images.

    Brightness is an offset of up to 32 grey levels, contrast a factor of all values and saturation
    one of HSV's, both from 0.5 to 1.5, and the hue turns by up to a tenth of its circle. Contrast
    comes before saturation and hue, or after them.

    Args:
        image: RGB in [0, 1].
        valid: pixels that belong to pictures; others stay as they are. None: all.
    """
    batch, device = len(image), image.device
    amount = torch.rand(4, batch, device=device).mul(2).sub(1)
    amount = amount * (torch.rand(4, batch, device=device) < 0.5)
    is_first = (torch.rand(batch, device=device) < 0.5)[:, None, None, None]
    offset = (BRIGHTNESS * amount[0])[:, None, None, None]
    contrast = (1 + CONTRAST * amount[1])[:, None, None, None]
    view = (image + offset).clamp(0, 1)
    view = torch.where(is_first, (view * contrast).clamp(0, 1), view)
    view = scale_saturation(view, 1 + SATURATION * amount[2])
    view = shift_hue(view, HUE * amount[3]).clamp(0, 1)  # rounding leaves the range
    view = torch.where(is_first, view, (view * contrast).clamp(0, 1))
    return view if valid is None else torch.where(valid[:, None], view, image)


def scale_saturation(image: Images, factor: Float[Tensor, " B"]) -> Images:
    """HSV's saturation times a factor, up to 1; hue and value stay as they are.

    Args:
        image: RGB in [0, 1].
        factor: of each image, at least 0.
    """
    value = image.amax(dim=1, keepdim=True)
    below = value - image
    most = value / below.amax(dim=1, keepdim=True).clamp_min(torch.finfo(image.dtype).tiny)
    return value - below * torch.minimum(factor[:, None, None, None], most)
