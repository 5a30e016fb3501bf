"""The head of DAFormer: feature maps of all strides to logits at the finest."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.heads.head import Head
from sfseg.networks.layers import conv_bn_relu, embed_levels, require_positive

Init = Literal["default", "fan_out"]
"""How convolutions start: as PyTorch's do, or as in the code of DAFormer and of Uni-UVPT."""


class DAFormerHead(Head):
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
        init: ``fan_out`` draws convolutions from normal distributions of variance 2 over outputs
            times pixels of the kernel, whatever the groups, and the classifier's weights with a
            standard deviation of 0.01, its bias as 0. Depthwise ones then start 13 times smaller
            than by ``default``, pointwise ones five times larger. The paper says nothing of it.

    Raises:
        ValueError: no dilation or no feature map is given, or ``init`` is unknown.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
        init: Init = "default",
    ) -> None:
        super().__init__()
        if init not in get_args(Init):
            raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
        require_positive(in_channels=in_channels, dilations=dilations)
        self.num_classes = num_classes
        self.embeddings = nn.ModuleList(nn.Linear(width, channels) for width in in_channels)
        stacked = channels * len(in_channels)
        self.branches = nn.ModuleList(
            conv_bn_relu(stacked, channels)
            if dilation == 1
            else nn.Sequential(
                conv_bn_relu(stacked, stacked, kernel_size=3, dilation=dilation, groups=stacked),
                conv_bn_relu(stacked, channels),
            )
            for dilation in dilations
        )
        self.bottleneck = conv_bn_relu(channels * len(dilations), channels, kernel_size=3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.init = init
        if init == "fan_out":
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw anew what does not start by PyTorch's default."""
        if self.init == "default":
            return
        for module in (*self.branches.modules(), *self.bottleneck.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(cast(nn.Parameter, self.classifier.bias))

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """Features of the size of ``maps[0]``, as are the logits."""
        stacked = torch.cat(embed_levels(self.embeddings, maps), dim=1)
        fused = self.bottleneck(torch.cat([branch(stacked) for branch in self.branches], dim=1))
        dropped: Tensor = self.dropout(fused)
        return dropped
