"""Feature distance of DAFormer (Hoyer et al., CVPR 2022), which keeps what ImageNet has taught."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor


def feature_distance(
    features: Float[Tensor, "B C h w"],
    reference: Float[Tensor, "B C h w"],
    label: Integer[Tensor, "B H W"],
    *,
    classes: Sequence[int],
    least_share: float = 0.75,
) -> Float[Tensor, ""]:
    """Mean Euclidean distance of features in cells that one of some classes fills (equations 8-10).

    Args:
        features: of the student; gradients reach them alone.
        reference: of the network as ImageNet has trained it.
        label: of the pixels that the cells cover, in equal parts: of the padded image, with IGNORE
            in its padding.
        classes: ids that count, DAFormer's "things".
        least_share: of a cell's pixels that are of one class.

    Returns:
        0 where no cell counts.
    """
    cells = (features.shape[-2], features.shape[-1])
    filled = torch.zeros(len(label), *cells, dtype=torch.bool, device=label.device)
    for k in classes:  # one at a time: all at once would take K times the memory of the image
        share = F.adaptive_avg_pool2d((label == k).float(), cells)
        filled |= share >= least_share
    distance = torch.linalg.vector_norm(features.float() - reference.detach().float(), dim=1)
    total: Tensor = (distance * filled).sum()
    return total / filled.sum().clamp_min(1)
