"""A label map made of masks, each of which claims its pixels for a class.

As in CLOUDS (Benigmim et al., CVPR 2024, arXiv:2312.09788), which learns a binary mask for each
class: to it, pixels that nothing claims are no pixels of any class, and to a method that learns
label maps they are unknown.
"""

import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from sfseg.types import IGNORE


def best_masks(
    masks: Float[Tensor, "N M h w"], iou: Float[Tensor, "N M"]
) -> tuple[Float[Tensor, "N h w"], Float[Tensor, " N"]]:
    """Of M proposals for each of N objects the one of the highest predicted IoU, and that IoU."""
    highest, chosen = iou.max(dim=1)
    return masks[torch.arange(len(masks), device=masks.device), chosen], highest


def claimed_label(
    masks: Bool[Tensor, "N H W"],
    label: Integer[Tensor, " N"],
    iou: Float[Tensor, " N"],
    *,
    clear_overlaps: bool = True,
) -> UInt8[Tensor, "H W"]:
    """Class ids of the pixels that masks claim; IGNORE where none does.

    Args:
        masks: of N objects, several of which may be of one class.
        label: class of each.
        iou: predicted quality of each.
        clear_overlaps: a pixel that more than one mask claims is IGNORE, also where they are of one
            class, as in the release of CLOUDS; otherwise the mask of the highest IoU has it.
    """
    united = masks.new_full(masks.shape[1:], IGNORE, dtype=torch.uint8)
    for k in iou.argsort(stable=True).tolist():
        united[masks[k]] = int(label[k])
    if clear_overlaps:
        united[masks.sum(dim=0) > 1] = IGNORE
    return united
