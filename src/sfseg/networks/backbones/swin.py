"""The block of Swin (Liu et al., ICCV 2021, arXiv:2103.14030) as its authors segment with it."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from sfseg.ops.padding import first_cells


def pad_before_roll(trunk: nn.Module) -> None:
    """Put a :class:`PadFirstBlock` in the place of every Swin block of a timm model, in place."""
    for name, module in list(trunk.named_modules()):
        if isinstance(module, SwinTransformerBlock):
            trunk.set_submodule(name, PadFirstBlock(module))


class PadFirstBlock(nn.Module):
    """A Swin block that pads, then rolls, and rolls also maps that fit into one window.

    timm's rolls first, and neither rolls nor pads the latter. Names of weights are timm's.

    Args:
        block: gives its layers, which both then share.
    """

    def __init__(self, block: SwinTransformerBlock) -> None:
        super().__init__()
        self.window_size, self.shift_size = block.window_size, block.shift_size
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Tokens that have looked at their window, then each at itself."""
        seen: Tensor = x + self.drop_path1(self.attend(self.norm1(x)))
        rows = seen.flatten(1, 2)
        thought: Tensor = rows + self.drop_path2(self.mlp(self.norm2(rows)))
        return thought.reshape(x.shape)

    def attend(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """What tokens, normalised, learn from those of their window."""
        height, width = x.shape[1:3]
        window, shift = self.window_size, self.shift_size
        # Sizes are products of the number of windows: an exporter would else have to find that a
        # remainder of a remainder is none, which takes it minutes.
        rows, columns = (
            (side + size - 1) // size for side, size in zip((height, width), window, strict=True)
        )
        padded = (rows * window[0], columns * window[1])
        x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        mask = None
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
            # A compiler traces the function itself and would warn about the cache around it.
            shift_mask = _shift_mask.__wrapped__ if torch.compiler.is_compiling() else _shift_mask
            mask = shift_mask((rows, columns), window, shift, x.device).to(x.dtype)
        windows = partitioned(x, (rows, columns), window)
        windows = self.attn(windows, mask=mask)
        x = windows.view(-1, rows, columns, *window, x.shape[-1]).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if any(shift):
            x = x.roll(shift, dims=(1, 2))
        return first_cells(x, (height, width), dim=-3)


def partitioned(
    x: Float[Tensor, "B H W C"], windows: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "_ N C"]:
    """The tokens of each window, windows of all images in turn.

    Args:
        x: tokens, which windows cover exactly.
        windows: how many there are along the height and the width.
        size: height and width of one.
    """
    blocks = x.view(-1, windows[0], size[0], windows[1], size[1], x.shape[-1])
    return blocks.transpose(2, 3).flatten(3, 4).flatten(0, 2)


@lru_cache(maxsize=32)
def _shift_mask(
    windows: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> Float[Tensor, "windows N N"]:
    """-inf between pixels of one window that were no neighbours before the roll, else 0."""

    def strips(length: int, size: int, moved: int) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - size).float() + (place >= length - moved)

    # A mask born in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        rows = strips(windows[0] * window[0], window[0], shift[0])
        columns = strips(windows[1] * window[1], window[1], shift[1])
        regions = (3 * rows[:, None] + columns)[None, :, :, None]
        regions = partitioned(regions, windows, window).flatten(1)  # (windows, N)
        return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, -torch.inf)
