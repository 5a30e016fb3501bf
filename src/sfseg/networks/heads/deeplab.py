"""The heads of DeepLab-v2 and -v3: the coarsest map, looked at with several dilations at once."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.heads.head import Head
from sfseg.networks.layers import PooledContext, conv_bn_relu, require_positive


class DeepLabV2Head(Head):
    """Sum of dilated 3x3 classifiers (Chen et al., TPAMI 2018, arXiv:1606.00915).

    The paper has four. AdaptSegNet's code lists four too but returns after the second, and so do
    the methods that build on it: two are what most domain adaptation with DeepLab-v2 has run.

    Args:
        in_channels: width of each feature map; only the last map is used.
        num_classes: number of logits per pixel.
        dilations: one classifier each, in pixels of the last map.

    Raises:
        ValueError: no dilation or no feature map is given.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, dilations: Sequence[int] = (6, 12)
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, dilations=dilations)
        self.num_classes = num_classes
        classifiers = [
            nn.Conv2d(in_channels[-1], num_classes, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        ]
        self.classifiers = nn.ModuleList(classifiers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for classifier in self.classifiers:
            nn.init.normal_(cast(nn.Conv2d, classifier).weight, std=0.01)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """The last map, which all classifiers see."""
        return maps[-1]

    def classify(
        self, features: Float[Tensor, "B C H W"], maps: Sequence[Tensor]
    ) -> Float[Tensor, "B K H W"]:
        """The sum of what the classifiers say."""
        return torch.stack([classifier(features) for classifier in self.classifiers]).sum(dim=0)

    def scoring_layers(self) -> list[nn.Conv2d]:
        """All of them."""
        return [cast(nn.Conv2d, classifier) for classifier in self.classifiers]


class DeepLabV3Head(Head):
    """Atrous spatial pyramid pooling (Chen et al., 2017, arXiv:1706.05587).

    A 1x1 convolution, dilated ones and the mean of the image see the last map side by side. In
    training that mean needs at least two images per batch.

    Args:
        in_channels: width of each feature map; only the last map is used.
        num_classes: number of logits per pixel.
        channels: width of every layer inside the head.
        dilations: of the 3x3 convolutions, in pixels of the last map; those of the paper are for
            a backbone of output stride 8.
        dropout: probability that a value is dropped after the projection.

    Raises:
        ValueError: no dilation or no feature map is given.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        dilations: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, dilations=dilations)
        self.num_classes = num_classes
        width = in_channels[-1]
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(width, channels),
                *(conv_bn_relu(width, channels, kernel_size=3, dilation=d) for d in dilations),
                PooledContext(width, channels),
            ]
        )
        self.project = conv_bn_relu(channels * len(self.branches), channels)
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = conv_bn_relu(channels, channels, kernel_size=3)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """Features of the size of the last map, as are the logits."""
        fused = self.project(torch.cat([branch(maps[-1]) for branch in self.branches], dim=1))
        refined: Tensor = self.bottleneck(self.dropout(fused))
        return refined
