"""The prompt adapter of Uni-UVPT (Ma et al., NeurIPS 2023) around a backbone."""

from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.adapters.prompt_generator import PromptGenerator, Stem
from sfseg.networks.adapters.prompt_interactor import PromptInteractor
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.stages import Staged

Variant = Literal["paper", "release"]
"""The formulas of the paper, or the arithmetic and the parameters of the published code."""

_STEM_WIDTH = 64


class PromptAdapter(nn.Module):
    """A generator of prompts and an interactor before each of the first stages.

    Args:
        channels: widths of the backbone's stages.
        variant: ``release`` hands the prompt of a stage on as it came in, not refined, holds
            parameters that are never used, and the three ``mixing`` logits of its consistency
            loss. Parallel training of it needs ``find_unused_parameters``.
        idle_embedding: whether the level embedding of ``release`` is one of the unused.
        stem: see :class:`PromptGenerator`.
        level_embedding: see :class:`PromptGenerator`.
        interactors: how many there are; 0 leaves the backbone alone and needs no generator.
        num_heads: see :class:`PromptInteractor`, as all that follows.
        num_points: samples of each query, head and map.
        gamma: factor of the prompt at the start of training.
        drop_path: probability that the prompt's MLP is skipped for an image in training.
        recompute: in the backward pass, what prompts and tokens tell each other: a sixth less
            memory with Swin-B for two percent more time.

    Raises:
        ValueError: the variant or the stem is unknown, or there are more interactors than stages.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        *,
        variant: Variant = "paper",
        idle_embedding: bool = False,
        stem: Stem = "multiscale",
        level_embedding: bool = True,
        interactors: int = 4,
        num_heads: int = 16,
        num_points: int = 4,
        gamma: float = 1e-6,
        drop_path: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(
                f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}"
            )
        if not 0 <= interactors <= len(channels):
            raise ValueError(
                f"interactors must be 0 to {len(channels)}, the number of stages, got {interactors}"
            )
        released = variant == "release"
        if interactors:
            self.generator = PromptGenerator(
                channels[0],
                stem=stem,
                level_embedding=level_embedding,
                stem_width=min(_STEM_WIDTH, channels[0]),
                idle=("all" if idle_embedding else "stem") if released else "nothing",
            )
        used = channels[:interactors]
        self.interactors = nn.ModuleList(
            PromptInteractor(
                width,
                next_width,
                num_heads=num_heads,
                num_points=num_points,
                gamma=gamma,
                drop_path=drop_path,
                carry_refined=not released,
                recompute=recompute,
            )
            for width, next_width in zip(used, (*used[1:], None), strict=False)
        )
        self.mixing = nn.Parameter(torch.ones(3)) if released else None
        # Its maps are channels-last; kernels that are so too are not rearranged at every call.
        self.to(memory_format=torch.channels_last)


class PromptedBackbone(nn.Module):
    """A backbone whose stages start from tokens that a prompt has adapted.

    The prompt is made from the image, learns from the tokens of each stage and adapts them. What
    trains is ``adapter``; ``backbone`` is meant to be frozen, which its owner does:
    ``Segmenter.freeze("backbone.backbone")``. Gradients cross it nevertheless.

    Args:
        backbone: Swin, MiT or :class:`sfseg.networks.backbones.tiny.TinyTransformer`.
        **options: further arguments of :class:`PromptAdapter`.

    Raises:
        ValueError: the backbone's stages cannot be run one by one, or an argument is impossible.
    """

    def __init__(self, backbone: nn.Module, **options: Any) -> None:
        super().__init__()
        if not getattr(backbone, "is_staged", False):
            raise ValueError(
                "backbone must be a Swin, a MiT or tiny, into whose stages a prompt can enter, got "
                f"{type(getattr(backbone, 'trunk', backbone)).__name__}; choose backbone=swin_b, "
                "mit_b5 or tiny"
            )
        staged = cast(Staged, backbone)
        self.channels, self.strides = staged.channels, staged.strides
        self.stride_multiple = staged.stride_multiple
        self.backbone = backbone
        # The published code creates a level embedding for every backbone and adds it for Swin only.
        idle = isinstance(backbone, MixTransformer)
        self.adapter = PromptAdapter(self.channels, idle_embedding=idle, **options)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), finest first."""
        return self.forward_features(image)[0]

    def forward_features(
        self, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The same maps, and the tokens that entered each stage as maps of equal shapes."""
        backbone, interactors = cast(Staged, self.backbone), self.adapter.interactors
        prompt = self.adapter.generator(image) if interactors else []
        x, maps, adapted = image, [], []
        for stage in range(len(self.channels)):
            tokens = backbone.embed(stage, x)
            if stage < len(interactors):
                tokens, prompt = interactors[stage](tokens, prompt)
            adapted.append(tokens.permute(0, 3, 1, 2))
            x = backbone.run(stage, tokens)
            maps.append(backbone.finish(stage, x))
        return maps, adapted
