"""Decoder heads: feature maps at strides 4, 8, 16 and 32 to logits at stride 4."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DAFormerHead(nn.Module):
    """Context-aware multi-level fusion of DAFormer (Hoyer et al., CVPR 2022, arXiv:2111.14887).

    All levels are brought to one width and to stride 4, stacked, and looked at with several
    dilations at once: local detail and wide context decide together, from every level.

    Args:
        in_channels: width of each feature map, finest first.
        num_classes: number of logits per pixel.
        channels: width of every layer inside the head.
        dilations: one parallel branch each, in pixels of the stride-4 map; 1 is a 1x1
            convolution, any other a depthwise-separable 3x3.
        dropout: probability that a channel is dropped before the classifier.

    Raises:
        ValueError: no dilation or no feature map is given.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, values in (("in_channels", in_channels), ("dilations", dilations)):
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be positive integers, got {list(values)}")
        self.num_classes = num_classes
        self.embeddings = nn.ModuleList(nn.Linear(width, channels) for width in in_channels)
        stacked = channels * len(in_channels)
        self.branches = nn.ModuleList(
            _conv(stacked, channels)
            if dilation == 1
            else nn.Sequential(
                _conv(stacked, stacked, kernel_size=3, dilation=dilation, groups=stacked),
                _conv(stacked, channels),
            )
            for dilation in dilations
        )
        self.bottleneck = _conv(channels * len(dilations), channels, kernel_size=3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Float[Tensor, "B K H W"]:
        """Logits at the size of ``features[0]``."""
        size = features[0].shape[-2:]
        levels: list[Tensor] = []
        for embedding, feature in zip(self.embeddings, features, strict=True):
            # A linear layer on (B, H, W, C) commutes with upsampling and is cheaper before it.
            level = embedding(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            if level.shape[-2:] != size:
                level = F.interpolate(level, size=size, mode="bilinear", align_corners=False)
            levels.append(level)
        stacked = torch.cat(levels, dim=1)
        fused = self.bottleneck(torch.cat([branch(stacked) for branch in self.branches], dim=1))
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits


class _DilatedConv2d(nn.Conv2d):
    """A 3x3 convolution with gaps, several times faster on processors.

    A dilation d looks only at every d-th pixel, so the d x d interleaved sub-images do not meet:
    they are laid out as images of their own and convolved without gaps. The result is equal.
    """

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:  # noqa: A002
        (gap, _), (height, width) = self.dilation, input.shape[-2:]
        if gap == 1 or input.device.type != "cpu":
            return super().forward(input)
        x = F.pad(input, (0, -width % gap, 0, -height % gap)).permute(0, 2, 3, 1)
        batch, rows, columns = x.shape[0], x.shape[1] // gap, x.shape[2] // gap
        x = x.reshape(batch, rows, gap, columns, gap, -1).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(batch * gap * gap, rows, columns, -1).permute(0, 3, 1, 2)
        x = F.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)
        x = x.permute(0, 2, 3, 1).reshape(batch, gap, gap, rows, columns, -1)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(batch, rows * gap, columns * gap, -1)
        return x.permute(0, 3, 1, 2)[..., :height, :width]


def _conv(
    inputs: int, outputs: int, *, kernel_size: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        _DilatedConv2d(
            inputs,
            outputs,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
