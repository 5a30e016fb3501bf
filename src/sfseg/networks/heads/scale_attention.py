"""Which of two resolutions to trust, class by class (Hoyer et al., HRDA, ECCV 2022)."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.head import Head
from sfseg.networks.heads.multi_head import drawn_anew
from sfseg.networks.layers import conv_bn_relu, embed_levels


class LightDAFormerHead(Head):
    """DAFormer's head without dilations: its levels are fused by a 1x1 convolution alone.

    Args:
        in_channels: width of each feature map, finest first.
        num_classes: number of logits per pixel.
        channels: width of every layer inside the head.
        dropout: probability that a channel is dropped before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embeddings = nn.ModuleList(nn.Linear(width, channels) for width in in_channels)
        self.fusion = conv_bn_relu(channels * len(in_channels), channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """Features of the size of ``maps[0]``, as are the logits."""
        fused = self.fusion(torch.cat(embed_levels(self.embeddings, maps), dim=1))
        dropped: Tensor = self.dropout(fused)
        return dropped


def attention_like(head: nn.Module) -> nn.Module:
    """A head for scale attention beside a segmenter's own: of its kind, with random weights.

    DAFormer's is a :class:`LightDAFormerHead` of the same width, any other one as it is.

    Raises:
        ValueError: the head starts from pretrained layers.
    """
    if not isinstance(head, DAFormerHead):
        return drawn_anew(head).requires_grad_()
    widths = [cast(nn.Linear, layer).in_features for layer in head.embeddings]
    return LightDAFormerHead(
        widths,
        head.num_classes,
        channels=head.classifier.in_channels,
        dropout=head.dropout.p,
    )
