"""Masks looked at in random points (Kirillov et al., PointRend, CVPR 2020, arXiv:1912.08193)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sample(
    maps: Float[Tensor, "N C h w"],
    points: Float[Tensor, "N P 2"],
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "N C P"]:
    """Values of maps at points.

    Args:
        maps: of any size.
        points: x and y in [0, 1], from the left and top border to the right and bottom one.
        mode: of the interpolation; beyond the outermost centres zeros mix in.
    """
    grid = (2 * points - 1)[:, :, None]
    return F.grid_sample(maps, grid, mode=mode, align_corners=False)[..., 0]


@torch.no_grad()
def uncertain_points(
    masks: Float[Tensor, "N h w"], number: int, *, oversample: float, uncertain_share: float
) -> Float[Tensor, "N P 2"]:
    """Random points of each mask, of which most are where its logits are nearest to 0.

    Args:
        masks: logits.
        number: P.
        oversample: points that are drawn for each of them, to choose from; at least 1.
        uncertain_share: share of P that is chosen; the others are drawn anywhere.
    """
    count, device, dtype = len(masks), masks.device, masks.dtype
    drawn = torch.rand(count, int(number * oversample), 2, device=device, dtype=dtype)
    chosen = int(uncertain_share * number)
    distance = sample(masks[:, None], drawn)[:, 0].abs()
    nearest = distance.topk(chosen, dim=1, largest=False).indices
    anywhere = torch.rand(count, number - chosen, 2, device=device, dtype=dtype)
    return torch.cat([drawn.take_along_dim(nearest[..., None], dim=1), anywhere], dim=1)
