"""The prompt interactor of Uni-UVPT: a prompt learns from a stage's tokens and adapts them."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfseg.networks.adapters.prompt_generator import initialize_convolution
from sfseg.networks.layers import DropPath, conv_last
from sfseg.ops.deformable import cell_centres, deformable_attention

SCALES = (2.0, 1.0, 0.5)
"""Size of the three maps of a prompt relative to the tokens of the stage."""

_EPS = 1e-6
_CHANNELS_PER_HEAD = 2

Size = tuple[int, int]
Sizes = tuple[Size, ...]


class PromptInteractor(nn.Module):
    """What happens between two stages of a frozen backbone (Uni-UVPT, Ma et al., NeurIPS 2023).

    First the prompt asks the tokens that are about to enter the stage, then the tokens ask the
    refined prompt, and what they hear is added to them. At the start it counts almost nothing, so
    the backbone begins as it was.

    Args:
        width: of the stage and of the prompt.
        next_width: of the next stage's prompt; None where the prompt ends here.
        num_heads: most attention heads; fewer where a head would have less than two channels.
        num_points: samples of each query, head and map.
        gamma: factor of what tokens hear at the start of training, per channel.
        drop_path: probability that the prompt's MLP is skipped for an image in training.
        carry_refined: hand the refined prompt to the next stage, as the paper writes; the
            published code hands on the one that came in.
        recompute: keep nothing of the conversation for the gradient, and have it again then.
    """

    def __init__(
        self,
        width: int,
        next_width: int | None,
        *,
        num_heads: int = 16,
        num_points: int = 4,
        gamma: float = 1e-6,
        drop_path: float = 0.0,
        carry_refined: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.carry_refined = carry_refined
        self.recompute = recompute
        heads = fitting_heads(width, num_heads)
        self.extractor = _Extractor(width, heads, num_points, drop_path)
        self.injector = _Injector(width, heads, num_points, gamma)
        self.halvings = nn.ModuleList(
            _Halving(width, next_width) for _ in SCALES if next_width is not None
        )
        self.apply(initialize_convolution)

    def forward(
        self, tokens: Float[Tensor, "B h w C"], prompt: Sequence[Float[Tensor, "B C _ _"]]
    ) -> tuple[Float[Tensor, "B h w C"], list[Tensor]]:
        """Adapted tokens and the three maps of the next stage's prompt, none after the last."""
        sizes = _sizes(prompt)
        if self.recompute and torch.is_grad_enabled():
            adapted, refined = checkpoint(self._converse, tokens, *prompt, use_reentrant=False)
        else:
            adapted, refined = self._converse(tokens, *prompt)
        if not self.halvings:
            return adapted, []
        if self.carry_refined:
            prompt = [part.permute(0, 3, 1, 2) for part in _as_maps(refined, sizes)]
        return adapted, [halve(part) for halve, part in zip(self.halvings, prompt, strict=True)]

    def _converse(self, tokens: Tensor, *prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Adapted tokens (B, h, w, C) and the refined prompt (B, cells of all maps, C)."""
        size, sizes = (tokens.shape[1], tokens.shape[2]), _sizes(prompt)
        before = torch.cat([part.flatten(2).transpose(1, 2) for part in prompt], dim=1)
        flat = tokens.flatten(1, 2)
        refined = self.extractor(before, flat, sizes, size)
        adapted: Tensor = self.injector(flat, refined, size, sizes)
        return adapted.view(tokens.shape), refined


class _Halving(nn.Conv2d):
    """A 3x3 convolution of stride 2, exact on maps of any width.

    Where a map is one cell wide, PyTorch's gradient of the weight on processors in bfloat16 holds
    whatever was in memory for the taps that see padding only. Padding that is part of the map has
    a gradient of its own.
    """

    def __init__(self, width: int, next_width: int) -> None:
        super().__init__(width, next_width, kernel_size=3, stride=2, padding=1, bias=False)

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D H W"]:  # noqa: A002
        if input.shape[-1] > 1:
            return super().forward(input)
        return F.conv2d(F.pad(input, (1, 1, 1, 1)), self.weight, stride=2)


class _Extractor(nn.Module):
    """The prompt asks the tokens of the backbone, and its cells ask their neighbours."""

    def __init__(self, width: int, num_heads: int, num_points: int, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=_EPS)
        self.feature_norm = nn.LayerNorm(width, eps=_EPS)
        self.attention = _Attention(width, num_heads, num_levels=1, num_points=num_points)
        self.mlp_norm = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _ConvMLP(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, prompt: Tensor, tokens: Tensor, sizes: Sizes, size: Size) -> Tensor:
        geometry = _geometry(sizes, (size,), prompt.device)
        asked = self.attention(self.query_norm(prompt), self.feature_norm(tokens), *geometry)
        prompt = prompt + asked
        refined: Tensor = prompt + self.drop_path(self.mlp(self.mlp_norm(prompt), sizes))
        return refined


class _Injector(nn.Module):
    """The tokens of the backbone ask the prompt."""

    def __init__(self, width: int, num_heads: int, num_points: int, gamma: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=_EPS)
        self.feature_norm = nn.LayerNorm(width, eps=_EPS)
        self.attention = _Attention(width, num_heads, len(SCALES), num_points)
        self.gamma = nn.Parameter(torch.full((width,), gamma))

    def forward(self, tokens: Tensor, prompt: Tensor, size: Size, sizes: Sizes) -> Tensor:
        geometry = _geometry((size,), sizes, tokens.device)
        asked = self.attention(self.query_norm(tokens), self.feature_norm(prompt), *geometry)
        return torch.addcmul(tokens, self.gamma, asked)


class _Attention(nn.Module):
    """Every query samples features at a few places that it chooses, starting from its own."""

    def __init__(self, width: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_points = num_heads, num_points
        samples = num_heads * num_levels * num_points
        self.offsets = nn.Linear(width, 2 * samples)
        self.scores = nn.Linear(width, samples)
        self.value = nn.Linear(width, width // 2)
        self.output = nn.Linear(width // 2, width)
        self._initialize(num_levels)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        features: Float[Tensor, "B T C"],
        sizes: Sizes,
        centres: Float[Tensor, "levels 1 2 Q"],
        cells: Float[Tensor, "levels 1 2 1"],
    ) -> Float[Tensor, "B Q C"]:
        batch, count, _ = queries.shape
        levels, points = len(sizes), self.num_points
        rows = batch * self.num_heads
        offsets = _queries_last(self.offsets, queries)
        offsets = offsets.reshape(batch, self.num_heads, levels, points, 2, count)
        locations = torch.addcmul(centres, offsets.to(centres.dtype), cells).flatten(0, 1)
        scores = _queries_last(self.scores, queries)
        weights = scores.reshape(batch, self.num_heads, levels * points, count).softmax(dim=2)
        values = _queries_last(self.value, features).reshape(rows, -1, features.shape[1])
        attended = deformable_attention(
            [part.reshape(rows, -1, *size) for part, size in _parts(values, sizes, dim=2)],
            locations,
            weights.reshape(rows, levels, points, count),
        )
        heard = attended.reshape(batch, -1, count).transpose(1, 2).flatten(0, 1)
        answers: Tensor = self.output(heard.to(queries.dtype))
        return answers.view(queries.shape)

    def _initialize(self, num_levels: int) -> None:
        """Each head looks in a direction of its own, each point one cell further."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (heads, 2)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)[:, None]
        start = (direction[:, None, None] * distance).expand(-1, num_levels, -1, -1)
        for layer in (self.offsets, self.scores):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class _ConvMLP(nn.Module):
    """A narrow MLP per cell whose hidden layer looks at the eight neighbours on the same map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // 4
        self.contract = nn.Linear(width, hidden)
        self.neighbours = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.expand = nn.Linear(hidden, width)
        for layer in (self.contract, self.expand):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Float[Tensor, "B T C"], sizes: Sizes) -> Float[Tensor, "B T C"]:
        maps = _as_maps(self.contract(tokens), sizes)
        mixed = [conv_last(self.neighbours, x).flatten(1, 2) for x in maps]
        expanded: Tensor = self.expand(nn.functional.gelu(torch.cat(mixed, dim=1)))
        return expanded


def fitting_heads(width: int, most: int) -> int:
    """Attention heads of a stage: as many as divide half its width and keep two channels each.

    That is the paper's 16 in every stage of Swin and of MiT-B1 to B5.
    """
    half = width // 2
    fits = (n for n in range(1, most + 1) if half % n == 0 and half // n >= _CHANNELS_PER_HEAD)
    return max(fits, default=1)


def _queries_last(linear: nn.Linear, tokens: Float[Tensor, "B T C"]) -> Float[Tensor, "B D T"]:
    """A linear layer whose result comes transposed out of the multiplication, not by a copy."""
    rows = torch.addmm(linear.bias[:, None], linear.weight, tokens.flatten(0, 1).t())
    return rows.view(-1, *tokens.shape[:2]).transpose(0, 1)


def _parts(cells: Tensor, sizes: Sizes, dim: int) -> Iterator[tuple[Tensor, Size]]:
    """What belongs to each map, and its size."""
    counts = [height * width for height, width in sizes]
    return zip(torch.split(cells, counts, dim), sizes, strict=True)


def _sizes(prompt: Sequence[Tensor]) -> Sizes:
    return tuple((part.shape[-2], part.shape[-1]) for part in prompt)


def _as_maps(tokens: Float[Tensor, "B T C"], sizes: Sizes) -> list[Float[Tensor, "B h w C"]]:
    return [
        part.reshape(tokens.shape[0], *size, tokens.shape[2])
        for part, size in _parts(tokens, sizes, dim=1)
    ]


def _geometry(asking: Sizes, asked: Sizes, device: torch.device) -> tuple[Sizes, Tensor, Tensor]:
    """The maps that are asked, where on them the asking cells lie, and how large a cell is."""
    # A compiler traces the function itself and would warn about the cache around it.
    places = _places.__wrapped__ if torch.compiler.is_compiling() else _places
    return asked, *places(asking, asked, device)


@lru_cache(maxsize=64)
def _places(asking: Sizes, asked: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    relative = {1: (1.0,), len(SCALES): SCALES}  # of tokens and of a prompt
    # Tensors born in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        centres = [
            [
                cell_centres(size, on, theirs / ours, device)
                for size, ours in zip(asking, relative[len(asking)], strict=True)
            ]
            for on, theirs in zip(asked, relative[len(asked)], strict=True)
        ]
        cells = torch.tensor([[2 / width, 2 / height] for height, width in asked], device=device)
        placed = torch.stack([torch.cat(parts, dim=1) for parts in centres])  # (levels, 2, Q)
        return placed[:, None], cells[:, None, :, None]
