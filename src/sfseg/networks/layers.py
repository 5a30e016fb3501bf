"""Layers that several heads are made of."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.modes import is_exporting
from sfseg.ops.depthwise import dilated_depthwise
from sfseg.ops.grid_average import grid_average

VGG_MAPS = 6


def require_positive(**arguments: Sequence[int]) -> None:
    """Refuse what is not one or more positive integers.

    Raises:
        ValueError: names the argument.
    """
    for name, values in arguments.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be positive integers, got {list(values)}")


def require_vgg(in_channels: Sequence[int], *, head: str, backbone: str) -> None:
    """Refuse maps that are not the six of a VGG.

    Raises:
        ValueError: says which backbone fits the head.
    """
    if len(in_channels) != VGG_MAPS:
        raise ValueError(
            f"in_channels must be the widths of VGG's six maps for the {head} head, got "
            f"{list(in_channels)}; choose backbone={backbone} or a head such as deeplabv2"
        )


def conv_bn_relu(
    inputs: int, outputs: int, *, kernel_size: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size of the map, batch normalisation and ReLU."""
    kind = nn.Conv2d if groups == 1 else DilatedConv2d
    return nn.Sequential(
        kind(
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


def conv_last(conv: nn.Conv2d, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w D"]:
    """A convolution of a (B, H, W, C) map; both permutations are views, nothing is copied."""
    convolved: Tensor = conv(x.permute(0, 3, 1, 2))
    return convolved.permute(0, 2, 3, 1)


def resize(feature: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """A map brought to a size ``(height, width)`` bilinearly."""
    if tuple(feature.shape[-2:]) == tuple(size):
        return feature
    return F.interpolate(feature, size=list(size), mode="bilinear", align_corners=False)


def embed_levels(embeddings: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    """Maps brought to one width by a linear layer each, and to the size of the first map."""
    size = features[0].shape[-2:]
    # A linear layer on (B, H, W, C) commutes with upsampling and is cheaper before it.
    return [
        resize(embedding(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size)
        for embedding, feature in zip(embeddings, features, strict=True)
    ]


class PooledContext(nn.Module):
    """What a coarse grid of averages of the map says, brought back to the size of the map.

    Args:
        inputs: width of the map.
        outputs: width of the result.
        grid: rows and columns of the grid; 1 averages the whole image.
    """

    def __init__(self, inputs: int, outputs: int, *, grid: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.conv = conv_bn_relu(inputs, outputs)

    def forward(self, feature: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """The context of every pixel.

        Raises:
            ConfigError: a single image in training, whose single average has no variance.
        """
        pooled = grid_average(feature, self.grid) if is_exporting() else self.pool(feature)
        if self.conv.training and pooled.shape[0] * pooled[0, 0].numel() == 1:
            raise ConfigError(
                "data.batch_size must be at least 2 to train a head that averages the whole "
                "image, since batch normalisation needs two values per channel, got 1; raise it, "
                "or choose a head such as deeplabv2 or daformer"
            )
        return resize(self.conv(pooled), feature.shape[-2:])


class DilatedConv2d(nn.Conv2d):
    """A 3x3 convolution with gaps, several times as fast on processors where it is depthwise."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:  # noqa: A002
        is_depthwise = self.groups == self.in_channels == self.out_channels
        is_slow = self.dilation[0] > 1 and input.device.type == "cpu"
        # An exported network runs elsewhere, and interleaving fixes its sizes.
        if not (is_depthwise and is_slow) or is_exporting():
            return super().forward(input)
        x, weight = input, self.weight
        if torch.is_autocast_enabled("cpu"):
            x, weight = (y.to(torch.get_autocast_dtype("cpu")) for y in (x, weight))
        return dilated_depthwise(x, weight, self.dilation[0])


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves a residual branch out for some images.

    The others are scaled so that the mean stays (Huang et al., ECCV 2016). It draws what timm's
    layer of this name draws, without the import of timm.

    Args:
        probability: with which an image's branch is left out, in [0, 1].
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if self.probability == 0 or not self.training:
            return branch
        kept = 1 - self.probability
        mask = branch.new_empty(branch.shape[0], *(1,) * (branch.ndim - 1)).bernoulli_(kept)
        return branch * (mask.div_(kept) if kept > 0 else mask)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"
