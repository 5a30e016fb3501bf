"""The transformer decoder of Mask2Former: queries that look where their own mask is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfseg.networks.layers import require_positive
from sfseg.ops.sine_position import sine_position


class Prediction(NamedTuple):
    """What queries say after a layer.

    classes: (B, Q, K + 1) logits; the last one says that there is nothing.
    masks: (B, Q, h, w) logits, of the size of the finest map.
    """

    classes: Float[Tensor, "B Q L"]
    masks: Float[Tensor, "B Q h w"]


ClassHead = Callable[[int, int], nn.Module]
"""Builds what scores queries, from their width and the number of classes.

It is called with the decoded queries (B, Q, C), the features of pixels (B, C, h, w) and the logits
of masks (B, Q, h, w), and returns logits (B, Q, K + 1).
"""


class LinearClasses(nn.Module):
    """One linear layer, which looks at the queries alone: CLOUDS' release.

    Args:
        channels: width of queries.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(channels, num_classes + 1)

    def forward(
        self, decoded: Float[Tensor, "B Q C"], mask_features: Tensor, masks: Tensor
    ) -> Float[Tensor, "B Q L"]:
        """Logits of the classes, and of none."""
        logits: Tensor = self.classes(decoded)
        return logits


class MaskDecoder(nn.Module):
    """Queries that ask maps, each other and themselves, layer by layer (Cheng et al., CVPR 2022).

    A layer looks at one of the maps, in turn, and there only at the cells that the mask of the
    layer before covers; a query whose mask is empty looks everywhere.

    Args:
        num_classes: K.
        channels: width of queries and maps.
        queries: Q.
        layers: of attention; one prediction more than layers is made.
        heads: of each.
        hidden: width inside of each layer's MLP.
        levels: number of maps.
        class_head: see :data:`ClassHead`.

    Raises:
        ValueError: a number that does not do.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 256,
        queries: int = 100,
        layers: int = 9,
        heads: int = 8,
        hidden: int = 2048,
        levels: int = 3,
        class_head: ClassHead = LinearClasses,
    ) -> None:
        super().__init__()
        require_positive(queries=[queries], layers=[layers], heads=[heads], hidden=[hidden])
        self.query = nn.Parameter(torch.randn(queries, channels))
        self.query_position = nn.Parameter(torch.randn(queries, channels))
        self.levels = nn.Parameter(torch.randn(levels, channels))
        self.layers = nn.ModuleList(_Layer(channels, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.mask_embedding = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, channels),
        )  # fmt: skip
        self.class_head = class_head(channels, num_classes)

    def forward(
        self, mask_features: Float[Tensor, "B C h w"], maps: Sequence[Float[Tensor, "B C _ _"]]
    ) -> list[Prediction]:
        """Predictions of the queries as they are learnt, and after each layer; the last one counts.

        Args:
            mask_features: of pixels.
            maps: what the queries look at, coarsest first.
        """
        batch = mask_features.shape[0]
        keys, values = [], []
        for level, own in zip(maps, self.levels, strict=True):
            size = (level.shape[-2], level.shape[-1])
            value = level.flatten(2).transpose(1, 2) + own
            position = sine_position(size, level.shape[1], level.device).flatten(1).T
            keys.append(value + position.to(value.dtype))
            values.append(value)
        decoded = self.query.expand(batch, -1, -1)
        predictions = [self._predict(decoded, mask_features)]
        for number, layer in enumerate(self.layers):
            turn = number % len(maps)
            hidden = hidden_cells(predictions[-1].masks, maps[turn].shape[-2:])
            decoded = layer(decoded, self.query_position, keys[turn], values[turn], hidden)
            predictions.append(self._predict(decoded, mask_features))
        return predictions

    def _predict(self, decoded: Tensor, mask_features: Tensor) -> Prediction:
        seen = self.norm(decoded)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embedding(seen), mask_features)
        return Prediction(self.class_head(seen, mask_features, masks), masks)


@torch.no_grad()
def hidden_cells(masks: Float[Tensor, "B Q h w"], size: Sequence[int]) -> Bool[Tensor, "B Q cells"]:
    """The cells of a map that queries do not look at: outside of their masks, if these have any.

    Attention over no cells at all would be NaN, and so would all gradients be.

    Args:
        masks: logits.
        size: height and width of the map.
    """
    shown = F.interpolate(masks.float(), size=list(size), mode="bilinear", align_corners=False)
    hidden = shown.flatten(2) < 0
    return hidden & ~hidden.all(dim=-1, keepdim=True)


class _Layer(nn.Module):
    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_cross = nn.LayerNorm(channels)
        self.own = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_own = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.norm_mlp = nn.LayerNorm(channels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, decoded: Tensor, position: Tensor, keys: Tensor, values: Tensor, hidden: Tensor
    ) -> Float[Tensor, "B Q C"]:
        hidden = hidden.repeat_interleave(self.cross.num_heads, dim=0)
        asked = decoded + position
        heard, _ = self.cross(asked, keys, values, attn_mask=hidden, need_weights=False)
        decoded = self.norm_cross(decoded + heard)
        asked = decoded + position
        heard, _ = self.own(asked, asked, decoded, need_weights=False)
        decoded = self.norm_own(decoded + heard)
        learnt: Tensor = self.norm_mlp(decoded + self.mlp(decoded))
        return learnt
