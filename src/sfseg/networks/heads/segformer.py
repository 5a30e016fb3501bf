"""The head of SegFormer: one linear layer per level and one to mix them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.heads.head import Head
from sfseg.networks.layers import conv_bn_relu, embed_levels, require_positive, resize


class SegFormerHead(Head):
    """All-MLP decoder (Xie et al., NeurIPS 2021, arXiv:2105.15203).

    The transformer has already looked everywhere, so levels are only brought to one width and
    size, and mixed. They are stacked coarsest first, [c4, c3, c2, c1], as in the authors' code,
    so that their weights of ``fuse`` fit.

    Args:
        in_channels: width of each feature map, finest first.
        num_classes: number of logits per pixel.
        channels: width of every layer inside the head; 256 for MiT-B0 and B1, 768 for the others.
        dropout: probability that a channel is dropped before the classifier.
        is_linear: embed levels by a linear layer each; False: by a convolution, batch normalisation
            and ReLU, as the head that mmsegmentation 0.x and 1.x call SegformerHead.

    Raises:
        ValueError: no feature map is given.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 768,
        dropout: float = 0.1,
        is_linear: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels)
        self.num_classes = num_classes
        self.is_linear = is_linear
        embed = nn.Linear if is_linear else conv_bn_relu
        self.embeddings = nn.ModuleList(embed(width, channels) for width in in_channels)
        self.fuse = conv_bn_relu(channels * len(in_channels), channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C H W"]:
        """Features of the size of ``maps[0]``, as are the logits."""
        if self.is_linear:
            levels = embed_levels(self.embeddings, maps)
        else:
            size = maps[0].shape[-2:]
            levels = [
                resize(embedding(level), size)
                for embedding, level in zip(self.embeddings, maps, strict=True)
            ]
        dropped: Tensor = self.dropout(self.fuse(torch.cat(levels[::-1], dim=1)))
        return dropped
