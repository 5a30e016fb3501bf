"""A small hierarchical transformer that learns from scratch on a laptop's processor."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfseg.networks.backbones.stages import run_stages
from sfseg.networks.layers import DropPath, conv_last


class TinyTransformer(nn.Module):
    """Four stages of overlapping patches, attention to pooled keys and convolutional MLPs.

    The plan is that of SegFormer's encoder (Xie et al., NeurIPS 2021, arXiv:2105.15203) with a
    convolutional stem (Xiao et al., NeurIPS 2021, arXiv:2106.14881), which keeps thin objects
    and trains without pretraining. Inside, maps are channels-last: (B, H, W, C).

    Args:
        channels: width of each stage.
        depths: blocks of each stage.
        head_dim: channels per attention head.
        reductions: side in pixels of the square that is pooled into one key, per stage.
        mlp_ratio: width of an MLP relative to its stage.
        drop_path_rate: probability that the last block is skipped; grows linearly from 0.
        gradient_checkpointing: recompute blocks in the backward pass to save memory.

    Raises:
        ValueError: the three tuples have different lengths or a width is not a multiple of
            ``head_dim``.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64, 128, 192),
        depths: Sequence[int] = (2, 2, 2, 2),
        head_dim: int = 32,
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratio: float = 3.0,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not len(channels) == len(depths) == len(reductions):
            raise ValueError(
                "channels, depths and reductions must have one entry per stage, "
                f"got {len(channels)}, {len(depths)} and {len(reductions)}"
            )
        if any(width % head_dim for width in channels):
            raise ValueError(
                f"channels must be multiples of head_dim={head_dim}, got {tuple(channels)}"
            )
        self.channels = tuple(channels)
        self.strides = tuple(4 * 2**stage for stage in range(len(channels)))
        # Each stage halves without remainder, so that all maps of a pyramid line up.
        self.stride_multiple = self.strides[-1]
        self.is_staged = True
        self.gradient_checkpointing = gradient_checkpointing

        width = channels[0]
        self.stem = nn.Sequential(_Downsample(3, width), nn.GELU(), _Downsample(width, width))
        self.downsamples = nn.ModuleList(
            _Downsample(before, after) for before, after in pairwise(channels)
        )
        last = max(sum(depths) - 1, 1)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                _Block(
                    width,
                    num_heads=width // head_dim,
                    reduction=reduction,
                    mlp_ratio=mlp_ratio,
                    drop_path=drop_path_rate * (sum(depths[:stage]) + block) / last,
                )
                for block in range(depth)
            )
            for stage, (width, depth, reduction) in enumerate(
                zip(channels, depths, reductions, strict=True)
            )
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in channels)
        self.apply(_initialize)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), one per stage."""
        return run_stages(self, image)

    def embed(self, stage: int, x: Tensor) -> Float[Tensor, "B h w c"]:
        """Tokens that enter a stage; see :class:`sfseg.networks.backbones.stages.Staged`."""
        tokens: Tensor = (
            self.stem(x.permute(0, 2, 3, 1)) if stage == 0 else self.downsamples[stage - 1](x)
        )
        return tokens

    def run(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Tokens that leave a stage, normalised."""
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in cast(nn.ModuleList, self.stages[stage]):
            tokens = checkpoint(block, tokens, use_reentrant=False) if recompute else block(tokens)
        normalised: Tensor = self.norms[stage](tokens)
        return normalised

    def finish(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B C H W"]:
        """The map that a stage hands to the head."""
        return tokens.permute(0, 3, 1, 2)


class _Downsample(nn.Module):
    """Halves a map with an overlapping 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w c"]:
        normalised: Tensor = self.norm(conv_last(self.conv, x))
        return normalised


class _Attention(nn.Module):
    """Every pixel asks, squares of pixels answer: linear in the number of pixels."""

    def __init__(self, width: int, *, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction = reduction
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width) if reduction > 1 else nn.Identity()
        self.project = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        pooled = x.permute(0, 3, 1, 2)
        if self.reduction > 1:
            # ceil_mode averages what is left of a square that sticks out of the map.
            pooled = F.avg_pool2d(pooled, self.reduction, ceil_mode=True)
        pooled = self.norm(pooled.flatten(2).transpose(1, 2))  # (B, squares, C)
        key, value = self.key_value(pooled).chunk(2, dim=-1)
        query = self._split(self.query(x.flatten(1, 2)))  # (B, heads, pixels, C / heads)
        # Written out: with so few keys the fused attention's backward pass is 5 times slower
        # in bfloat16 on a processor.
        similarity = (query * query.shape[-1] ** -0.5) @ self._split(key).transpose(-2, -1)
        answer = similarity.softmax(dim=-1).to(value.dtype) @ self._split(value)
        projected: Tensor = self.project(answer.transpose(1, 2).reshape(x.shape))
        return projected

    def _split(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B heads N c"]:
        return tokens.reshape(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


class _ConvMLP(nn.Module):
    """An MLP per pixel whose hidden layer looks at the eight neighbours.

    The zeros around the map tell pixels where they are, which replaces position embeddings and
    makes every size of input work.
    """

    def __init__(self, width: int, *, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.expand = nn.Linear(width, hidden)
        self.neighbours = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        hidden = F.gelu(conv_last(self.neighbours, self.expand(x)))
        contracted: Tensor = self.contract(hidden)
        return contracted


class _Block(nn.Module):
    def __init__(
        self, width: int, *, num_heads: int, reduction: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, num_heads=num_heads, reduction=reduction)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _ConvMLP(width, ratio=mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        # Depthwise convolutions have a fan of 9, which "fan_out" would overestimate.
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        nn.init.zeros_(cast(Tensor, module.bias))
