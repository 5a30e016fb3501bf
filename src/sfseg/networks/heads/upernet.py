"""The head of UPerNet: pooled context on the coarsest map, a feature pyramid above it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.heads.head import Head
from sfseg.networks.layers import PooledContext, conv_bn_relu, require_positive, resize


class UPerHead(Head):
    """Unified perceptual parsing for one task (Xiao et al., ECCV 2018, arXiv:1807.10221).

    Averages over ever finer grids tell the coarsest map about the whole scene; from there a
    feature pyramid carries it down to the finest map, where all levels are fused. The grid of
    one cell needs at least two images per batch in training.

    Args:
        in_channels: width of each feature map, finest first.
        num_classes: number of logits per pixel.
        channels: width of every layer inside the head.
        grids: rows and columns of each grid of averages.
        dropout: probability that a channel is dropped before the classifier.

    Raises:
        ValueError: no grid or no feature map is given.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        grids: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, grids=grids)
        *finer, coarsest = in_channels
        self.num_classes = num_classes
        self.contexts = nn.ModuleList(
            PooledContext(coarsest, channels, grid=grid) for grid in grids
        )
        stacked = coarsest + channels * len(grids)
        self.bottleneck = conv_bn_relu(stacked, channels, kernel_size=3)
        self.laterals = nn.ModuleList(conv_bn_relu(width, channels) for width in finer)
        self.smooths = nn.ModuleList(conv_bn_relu(channels, channels, kernel_size=3) for _ in finer)
        self.fuse = conv_bn_relu(channels * len(in_channels), channels, kernel_size=3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """Features of the size of ``maps[0]``, as are the logits."""
        *finer, coarsest = maps
        seen = [coarsest, *(context(coarsest) for context in self.contexts)]
        down = self.bottleneck(torch.cat(seen, dim=1))
        levels = [down]
        for feature, lateral, smooth in zip(
            reversed(finer), reversed(self.laterals), reversed(self.smooths), strict=True
        ):
            down = lateral(feature) + resize(down, feature.shape[-2:])
            levels.insert(0, smooth(down))
        size = maps[0].shape[-2:]
        fused = self.fuse(torch.cat([resize(level, size) for level in levels], dim=1))
        dropped: Tensor = self.dropout(fused)
        return dropped
