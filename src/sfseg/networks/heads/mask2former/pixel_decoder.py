"""The pixel decoder of Mask2Former: maps of a backbone that have heard each other."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.layers import require_positive, resize
from sfseg.ops.deformable import cell_centres, deformable_attention
from sfseg.ops.sine_position import sine_position

LEVELS = 4
"""Maps that are looked at, the coarsest ones: of VGG, which has six, too."""
_GROUPS = 32


class PixelDecoder(nn.Module):
    """Deformable attention over three maps, and one step down to the fourth, finest one.

    Zhu et al. (Deformable DETR, ICLR 2021) for the attention, Cheng et al. (Mask2Former, CVPR 2022)
    for the rest; numbers by default are those of CLOUDS.

    Args:
        in_channels: width of each feature map, finest first; of the last four.
        channels: width of every layer, a multiple of 32.
        layers: of attention.
        heads: of each.
        points: samples of each query, head and map.
        hidden: width inside of each layer's MLP.

    Raises:
        ValueError: a number that does not do.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, layers=[layers], heads=[heads], points=[points])
        if channels % _GROUPS or channels % heads:
            raise ValueError(
                f"channels must be a multiple of {_GROUPS} and of the {heads} heads, got {channels}"
            )
        if len(in_channels) < LEVELS:
            raise ValueError(
                f"in_channels must be the widths of at least {LEVELS} maps for the mask2former "
                f"head, got {list(in_channels)}; choose another backbone"
            )
        finest, *coarser = in_channels[-LEVELS:]
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), nn.GroupNorm(_GROUPS, channels))
            for width in coarser[::-1]
        )
        self.levels = nn.Parameter(torch.randn(len(coarser), channels))
        self.layers = nn.ModuleList(
            _Layer(channels, len(coarser), heads, points, hidden) for _ in range(layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(finest, channels, 1, bias=False), nn.GroupNorm(_GROUPS, channels)
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, channels),
            nn.ReLU(),
        )
        self.mask_features = nn.Conv2d(channels, channels, 1)
        for projection in self.projections:
            conv = projection.get_submodule("0")
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(
        self, maps: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "B C h w"], list[Float[Tensor, "B C _ _"]]]:
        """Features of the size of the finest of the four maps, and the three others decoded.

        Args:
            maps: of the backbone, finest first; the last four count.

        Returns:
            Features of pixels, and maps that queries look at, coarsest first.
        """
        finest, *coarser = maps[-LEVELS:]
        projected = [
            projection(level)
            for projection, level in zip(self.projections, coarser[::-1], strict=True)
        ]
        sizes = [(level.shape[-2], level.shape[-1]) for level in projected]
        device, channels = finest.device, self.levels.shape[1]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], dim=1)
        position = torch.cat(
            [
                sine_position(size, channels, device).flatten(1).T + level
                for size, level in zip(sizes, self.levels, strict=True)
            ]
        ).to(tokens.dtype)  # (tokens of all levels, C)
        centres = torch.cat([cell_centres(size, size, 1.0, device) for size in sizes], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, position, centres, sizes)
        decoded = _maps(tokens, sizes)
        features = self.lateral(finest) + resize(decoded[-1], finest.shape[-2:])
        return self.mask_features(self.smooth(features)), decoded


class _Layer(nn.Module):
    def __init__(self, channels: int, levels: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableSelfAttention(channels, levels, heads, points)
        self.norm_attention = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.norm_mlp = nn.LayerNorm(channels)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, tokens: Tensor, position: Tensor, centres: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B T C"]:
        heard = self.attention(tokens, position, centres, sizes)
        tokens = self.norm_attention(tokens + heard)
        learnt: Tensor = self.norm_mlp(tokens + self.mlp(tokens))
        return learnt


class DeformableSelfAttention(nn.Module):
    """Every token asks a few places, near its own, on the maps of all levels.

    Args:
        channels: width of tokens.
        levels: number of maps.
        heads: of attention.
        points: places of each token, head and map.
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.weights.bias)
        # Each head looks into a direction of its own, its points one cell further each.
        angle = torch.arange(heads) * (2 * math.pi / heads)
        way = torch.stack([angle.cos(), angle.sin()], dim=-1)
        way = way / way.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            spread = (way[:, None, None] * steps).expand(heads, levels, points, 2)
            self.offsets.bias.copy_(spread.flatten())

    def forward(
        self,
        tokens: Float[Tensor, "B T C"],
        position: Float[Tensor, "T C"],
        centres: Float[Tensor, "2 T"],
        sizes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "B T C"]:
        """What every token hears.

        Args:
            tokens: of all levels, one after the other.
            position: what is added to them when they ask.
            centres: x and y of each on a map, whose borders are -1 and 1.
            sizes: height and width of each level.
        """
        heads, levels, points = self.shape
        asked = tokens + position
        values = [
            level.reshape(tokens.shape[0] * heads, -1, *level.shape[-2:])
            for level in _maps(self.value(tokens), sizes)
        ]  # (B * heads, C / heads, h, w)
        offsets = self.offsets(asked).unflatten(2, (heads, levels, points, 2))
        offsets = offsets.permute(0, 2, 3, 4, 5, 1).flatten(0, 1)  # (B * heads, ..., 2, T)
        widths_first = [(width, height) for height, width in sizes]
        cells = torch.tensor(widths_first, dtype=offsets.dtype, device=offsets.device)
        locations = centres + 2 * offsets / cells[:, None, :, None]
        weights = self.weights(asked).unflatten(2, (heads, levels * points)).softmax(dim=-1)
        weights = weights.permute(0, 2, 3, 1).flatten(0, 1).unflatten(1, (levels, points))
        heard = deformable_attention(values, locations, weights)
        heard = heard.reshape(tokens.shape[0], -1, heard.shape[-1]).transpose(1, 2)
        out: Tensor = self.output(heard.to(tokens.dtype))
        return out


def _maps(
    tokens: Float[Tensor, "B T C"], sizes: Sequence[tuple[int, int]]
) -> list[Float[Tensor, "B C _ _"]]:
    """The tokens of all levels as maps."""
    parts = torch.split(tokens, [height * width for height, width in sizes], dim=1)
    return [
        part.transpose(1, 2).reshape(part.shape[0], -1, *size)
        for part, size in zip(parts, sizes, strict=True)
    ]
