"""Images as a cartoon: even surfaces in few colours, with dark outlines."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "B 3 H W"]

_REACH = 2  # of the smoothing, in pixels
_TOLERANCE = 0.1  # difference of colours that it evens out
_LUMA = (0.299, 0.587, 0.114)


@torch.no_grad()
def cartoon(image: Images, generator: torch.Generator) -> Images:
    """Smoothed but for its edges, then 4 to 8 levels of brightness and dark edges."""
    smooth = _bilateral(_bilateral(image))
    num_levels = torch.randint(
        4, 9, (len(image), 1, 1, 1), generator=generator, device=image.device
    )
    # Levels of the brightest channel keep the hue: rounded one by one, dark greys turn colourful.
    value = smooth.amax(dim=1, keepdim=True)
    level = ((value * num_levels).floor().minimum(num_levels - 1) + 0.5) / num_levels
    few = smooth * (level / value.clamp_min(1e-3))
    return few * (1 - 0.8 * _outlines(smooth))


def _bilateral(image: Images) -> Images:
    """Means over neighbours of similar colour (Tomasi and Manduchi, ICCV 1998)."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (_REACH,) * 4, mode="replicate")
    total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    for dy in range(2 * _REACH + 1):
        for dx in range(2 * _REACH + 1):
            neighbour = padded[..., dy : dy + height, dx : dx + width]
            difference = (neighbour - image).square().mean(dim=1, keepdim=True)
            distance = (dy - _REACH) ** 2 + (dx - _REACH) ** 2
            exponent = difference / (2 * _TOLERANCE**2) + distance / (2 * _REACH**2)
            weight = (-exponent).exp()
            total += weight * neighbour
            weights += weight
    return total / weights  # the pixel itself has weight 1


def _outlines(image: Images) -> Float[Tensor, "B 1 H W"]:
    """Slopes of brightness: 0 up to 0.03 a pixel, 1 from 0.1."""
    luma = torch.tensor(_LUMA, device=image.device).view(3, 1, 1)
    grey = F.pad((image * luma).sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    down = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    return ((torch.hypot(across, down) - 0.03) / 0.07).clamp(0, 1)
