"""Deep visual prompts (VPT-deep; Jia et al., ECCV 2022, arXiv:2203.12119) in a backbone."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.pyramid import TimmPyramid
from sfseg.networks.backbones.stages import Staged
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.segmenter import Segmenter


class BlockPrompts(nn.Module):
    """The prompts of one block.

    Args:
        number: how many.
        width: of the block.
        patch: side in pixels of the backbone's patches, which the initial range depends on.
    """

    def __init__(self, number: int, width: int, *, patch: int) -> None:
        super().__init__()
        bound = math.sqrt(6 / (3 * patch**2 + width))
        self.tokens = nn.Parameter(torch.empty(number, width).uniform_(-bound, bound))

    def forward(self, norms: Sequence[nn.Module]) -> Float[Tensor, "P C"]:
        """Prompts behind the norms that tokens of the image pass before they become keys."""
        tokens: Tensor = self.tokens
        for norm in norms:
            tokens = norm(tokens)
        return tokens


class VisuallyPromptedBackbone(nn.Module):
    """A backbone in whose every block attention also looks at prompts, learnt tokens.

    Each block has prompts of its own: what a block makes of them is discarded, so that they are
    keys and values only. They are the same for all images and windows, have no position and do not
    go through what needs one: Swin's bias and mask of windows are 0 for them, MiT and tiny get
    them beside the pooled keys, and no convolution sees them.

    What trains is ``prompts``, block by block; ``backbone``, which is changed in place and keeps
    the names of its weights, is meant to be frozen by the owner:
    ``Segmenter.freeze("backbone.backbone")``. Gradients cross it nevertheless.

    Args:
        backbone: Swin, MiT or :class:`sfseg.networks.backbones.tiny.TinyTransformer`.
        tokens: prompts of each block; 256 give the parameters of Uni-UVPT's Table 1.

    Raises:
        ConfigError: the backbone has no blocks of attention of a known kind.
        ValueError: a negative number of tokens.
    """

    def __init__(self, backbone: nn.Module, *, tokens: int = 256) -> None:
        super().__init__()
        if tokens < 0:
            raise ValueError(f"tokens must not be negative, got {tokens}")
        blocks, attach = _blocks(backbone)
        staged = cast(Staged, backbone)
        self.channels, self.strides = staged.channels, staged.strides
        self.stride_multiple = staged.stride_multiple
        self.backbone = backbone
        self.prompts = nn.ModuleList()
        for width, stage in zip(self.channels, blocks, strict=True):
            for block in stage:
                prompts = BlockPrompts(tokens, width, patch=self.strides[0])
                attach(block, prompts)
                self.prompts.append(prompts)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), finest first."""
        maps: list[Tensor] = self.backbone(image)
        return maps


def with_visual_prompts(network: Segmenter, *, tokens: int = 256) -> Segmenter:
    """Put prompts into every block of the backbone; they and the head train, the rest is frozen.

    Args:
        network: changed in place and returned.
        tokens: prompts of each block.

    Raises:
        ConfigError: see :class:`VisuallyPromptedBackbone`.
        ValueError: likewise.
    """
    network.backbone = VisuallyPromptedBackbone(network.backbone, tokens=tokens)
    return network.freeze("backbone.backbone")


Attach = Callable[[Any, BlockPrompts], None]


def _blocks(backbone: nn.Module) -> tuple[list[list[nn.Module]], Attach]:
    """The blocks of each stage, and what connects one with its prompts."""
    paths, attach = _kind(backbone)
    return [list(backbone.get_submodule(path).children()) for path in paths], attach


def _kind(backbone: nn.Module) -> tuple[list[str], Attach]:
    if isinstance(backbone, TimmPyramid) and backbone.is_staged:
        stages = range(len(backbone.channels))
        return [f"trunk.layers.{stage}.blocks" for stage in stages], _attach_to_swin
    if isinstance(backbone, MixTransformer):
        return [f"block{stage + 1}" for stage in range(len(backbone.channels))], _attach_to_mit
    if isinstance(backbone, TinyTransformer):
        return [f"stages.{stage}" for stage in range(len(backbone.channels))], _attach_to_tiny
    raise ConfigError(
        "the backbone must be a Swin, a MiT or tiny, into whose attention prompts can enter, got "
        f"{type(getattr(backbone, 'trunk', backbone)).__name__}; choose backbone=swin_b, mit_b5 "
        "or tiny"
    )


# Hooks, and Swin's attention in place of timm's, leave the names of the backbones' weights alone.
# Partial functions of modules are copied and pickled with them, as closures would not be.


def _attach_to_swin(block: Any, prompts: BlockPrompts) -> None:
    block.attn = PromptedWindowAttention(block.attn, partial(prompts, [block.norm1]))


def _attach_to_mit(block: Any, prompts: BlockPrompts) -> None:
    pooled = [block.attn.norm] if block.attn.reduction > 1 else []
    block.attn.kv.register_forward_pre_hook(partial(_append, prompts, [block.norm1, *pooled]))


def _attach_to_tiny(block: Any, prompts: BlockPrompts) -> None:
    attention = block.attention
    append = partial(_append, prompts, [block.norm1, attention.norm])
    attention.key_value.register_forward_pre_hook(append)


def _append(
    prompts: BlockPrompts, norms: Sequence[nn.Module], layer: nn.Module, inputs: tuple[Tensor]
) -> tuple[Tensor]:
    """The tokens that become keys and values, and prompts behind them."""
    (tokens,) = inputs  # (B, N, C)
    added = prompts(norms).to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return (torch.cat([tokens, added], dim=1),)


class PromptedWindowAttention(nn.Module):
    """Attention of the pixels of a window of Swin to each other and to prompts.

    Names of weights are timm's.

    Args:
        attention: gives its layers, which both then share.
        prompts: makes the prompts (P, C) that become keys and values; not a module, so that their
            weights are not counted among those of the attention.
    """

    relative_position_index: Tensor

    def __init__(self, attention: WindowAttention, prompts: Callable[[], Tensor]) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.relative_position_bias_table = attention.relative_position_bias_table
        index = cast(Tensor, attention.relative_position_index)
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.attn_drop, self.proj_drop = attention.attn_drop, attention.proj_drop
        self.prompts = prompts

    def forward(
        self, x: Float[Tensor, "W N C"], mask: Float[Tensor, "V N N"] | None = None
    ) -> Float[Tensor, "W N C"]:
        """Tokens of W windows, which are whole images of V windows each, one after the other."""
        prompts = self.prompts()
        query, key, value = self._split(self.qkv(x))
        _, more_keys, more_values = self._split(self.qkv(prompts[None]))  # (1, heads, P, c)
        key = torch.cat([key, more_keys.expand(x.shape[0], -1, -1, -1)], dim=2)
        value = torch.cat([value, more_values.expand(x.shape[0], -1, -1, -1)], dim=2)
        bias = self._position_bias()[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        bias = F.pad(bias, (0, len(prompts))).to(query.dtype)
        dropout = self.attn_drop.p if self.training else 0.0
        answer = F.scaled_dot_product_attention(query, key, value, bias, dropout)
        projected: Tensor = self.proj_drop(self.proj(answer.transpose(1, 2).flatten(2)))
        return projected

    def _position_bias(self) -> Float[Tensor, "heads N N"]:
        """What each head adds to the scores of pixels for those of each place in their window."""
        index = self.relative_position_index  # (N, N)
        bias = self.relative_position_bias_table[index.flatten()].view(*index.shape, -1)
        return bias.permute(2, 0, 1).contiguous()

    def _split(self, tokens: Float[Tensor, "W N D"]) -> tuple[Tensor, ...]:
        """Queries, keys and values of each head."""
        width = tokens.shape[-1] // (3 * self.num_heads)
        parts = tokens.reshape(*tokens.shape[:2], 3, self.num_heads, width)
        return tuple(part.transpose(1, 2) for part in parts.unbind(2))  # (W, heads, N, c) each
