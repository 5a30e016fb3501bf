"""MiT, the encoder of SegFormer (Xie et al., NeurIPS 2021, arXiv:2105.15203)."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfseg.networks.backbones.stages import run_stages
from sfseg.networks.layers import DropPath, conv_last

VARIANTS: dict[str, tuple[int, tuple[int, ...]]] = {
    "mit_b0": (32, (2, 2, 2, 2)),
    "mit_b1": (64, (2, 2, 2, 2)),
    "mit_b2": (64, (3, 4, 6, 3)),
    "mit_b3": (64, (3, 4, 18, 3)),
    "mit_b4": (64, (3, 8, 27, 3)),
    "mit_b5": (64, (3, 6, 40, 3)),
}
"""Channels per attention head and blocks of each stage."""

_EPS = 1e-6  # of blocks and stages; embeddings and pooled keys keep torch's 1e-5


class MixTransformer(nn.Module):
    """Four stages of overlapping patches, attention to pooled keys and convolutional MLPs.

    Nothing depends on the size of the image: zeros around the maps tell pixels where they are.
    Names of weights are those of the authors' files. Between blocks, maps are channels-last:
    (B, H, W, C).

    Args:
        head_dim: channels per attention head.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        reductions: side in pixels of the square that is merged into one key, per stage.
        mlp_ratio: width of an MLP relative to its stage.
        drop_path_rate: probability that the last block is skipped; grows linearly from 0.
        gradient_checkpointing: recompute blocks in the backward pass to save memory.

    Raises:
        ValueError: the three sequences do not have one entry per stage.
    """

    def __init__(
        self,
        *,
        head_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratio: int = 4,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not len(depths) == len(num_heads) == len(reductions) == 4:
            raise ValueError(
                "depths, num_heads and reductions must have one entry for each of 4 stages, "
                f"got {len(depths)}, {len(num_heads)} and {len(reductions)}"
            )
        self.channels = tuple(head_dim * heads for heads in num_heads)
        self.strides = (4, 8, 16, 32)
        # Later maps are rounded up; only the finest must lie evenly on the image.
        self.stride_multiple = self.strides[0]
        self.is_staged = True
        self.gradient_checkpointing = gradient_checkpointing

        last = max(sum(depths) - 1, 1)
        for stage, (width, depth) in enumerate(zip(self.channels, depths, strict=True)):
            embed = _PatchEmbed(self.channels[stage - 1] if stage else 3, width, first=not stage)
            blocks = nn.ModuleList(
                _Block(
                    width,
                    num_heads=num_heads[stage],
                    reduction=reductions[stage],
                    mlp_ratio=mlp_ratio,
                    drop_path=drop_path_rate * (sum(depths[:stage]) + block) / last,
                )
                for block in range(depth)
            )
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=_EPS))
        self.apply(_initialize)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), rounded up, finest first."""
        return run_stages(self, image)

    def embed(self, stage: int, x: Tensor) -> Float[Tensor, "B h w c"]:
        """Tokens that enter a stage; see :class:`sfseg.networks.backbones.stages.Staged`."""
        tokens: Tensor = self.get_submodule(f"patch_embed{stage + 1}")(
            x if stage == 0 else x.permute(0, 3, 1, 2)
        )
        return tokens

    def run(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Tokens that leave a stage, normalised."""
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in cast(nn.ModuleList, self.get_submodule(f"block{stage + 1}")):
            tokens = checkpoint(block, tokens, use_reentrant=False) if recompute else block(tokens)
        normalised: Tensor = self.get_submodule(f"norm{stage + 1}")(tokens)
        return normalised

    def finish(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B C H W"]:
        """The map that a stage hands to the head."""
        return tokens.permute(0, 3, 1, 2)


def mix_transformer(name: str, **options: Any) -> MixTransformer:
    """A published variant with random weights.

    Args:
        name: a key of :data:`VARIANTS`.
        **options: further arguments of :class:`MixTransformer`.

    Raises:
        ValueError: there is no such variant.
    """
    if name not in VARIANTS:
        raise ValueError(f"backbone.network.name must be one of {', '.join(VARIANTS)}, got {name}")
    head_dim, depths = VARIANTS[name]
    return MixTransformer(head_dim=head_dim, depths=depths, **options)


class _PatchEmbed(nn.Module):
    """Overlapping patches: 7x7 every 4 pixels of the image, later 3x3 every 2."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        size, stride = (7, 4) if first else (3, 2)
        self.proj = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w c"]:
        normalised: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return normalised


class _Attention(nn.Module):
    """Every pixel asks, squares of pixels answer."""

    def __init__(self, width: int, *, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, stride=reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        merged = self._merge(x) if self.reduction > 1 else x
        key, value = self.kv(merged.flatten(1, 2)).chunk(2, dim=-1)  # (B, squares, C)
        query = self.q(x.flatten(1, 2))
        query, key, value = (self._split(tokens) for tokens in (query, key, value))
        answer = F.scaled_dot_product_attention(query, key, value)  # (B, heads, pixels, c)
        projected: Tensor = self.proj(answer.transpose(1, 2).reshape(x.shape))
        return projected

    def _merge(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w C"]:
        # What sticks out of the last whole square is dropped, as in the authors' files; a map
        # smaller than one square is filled up, where theirs stops.
        below, beside = (max(self.reduction - side, 0) for side in x.shape[1:3])
        x = F.pad(x, (0, 0, 0, beside, 0, below)) if below or beside else x
        normalised: Tensor = self.norm(conv_last(self.sr, x))
        return normalised

    def _split(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B heads N c"]:
        return tokens.reshape(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


class _ConvMLP(nn.Module):
    """An MLP per pixel whose hidden layer looks at the eight neighbours."""

    def __init__(self, width: int, *, ratio: int) -> None:
        super().__init__()
        hidden = width * ratio
        depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": depthwise})
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        depthwise = cast(nn.Conv2d, self.dwconv["dwconv"])
        contracted: Tensor = self.fc2(F.gelu(conv_last(depthwise, self.fc1(x))))
        return contracted


class _Block(nn.Module):
    def __init__(
        self, width: int, *, num_heads: int, reduction: int, mlp_ratio: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = _Attention(width, num_heads=num_heads, reduction=reduction)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _ConvMLP(width, ratio=mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        # torch's "fan_out" would count the outputs of all groups.
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(cast(Tensor, module.bias))
