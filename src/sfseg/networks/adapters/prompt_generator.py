"""The prompt generator of Uni-UVPT: from the image to what is known beside the backbone."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.networks.layers import resize

Stem = Literal["multiscale", "single", "none"]
"""Where prompts come from: maps of three sizes, one map resized to them, or nowhere."""

STRIDES = (2, 4, 8)
"""Of the three maps of a prompt."""


class PromptGenerator(nn.Module):
    """A convolutional stem and a level embedding, which make three maps of one width.

    The stem sees what patches of a frozen backbone cannot: edges, at strides 2, 4 and 8. The level
    embedding is one learned vector per map (Uni-UVPT, Ma et al., NeurIPS 2023).

    Args:
        width: of the maps, that of the backbone's first stage.
        stem: see :data:`Stem`; without a stem, a map is its level embedding everywhere.
        level_embedding: whether there is one.
        stem_width: of the stem's finest map; doubles with every halving.
        idle: also hold what the published code counts and never uses, for its checkpoints:
            ``stem`` a fourth stride, ``all`` the level embedding as well.

    Raises:
        ValueError: ``stem`` is unknown, or there is neither a stem nor a level embedding.
    """

    def __init__(
        self,
        width: int,
        *,
        stem: Stem = "multiscale",
        level_embedding: bool = True,
        stem_width: int = 64,
        idle: Literal["nothing", "stem", "all"] = "nothing",
    ) -> None:
        super().__init__()
        if stem not in get_args(Stem):
            raise ValueError(f"stem must be one of {', '.join(get_args(Stem))}, got {stem!r}")
        if stem == "none" and not level_embedding:
            raise ValueError(
                "level_embedding must be true where stem is 'none', got false: nothing would be "
                "left of the prompt; take one of both, or interactors=0 for no prompt at all"
            )
        self.resizes = stem == "single"
        widths = [stem_width * 2**level for level in range(len(STRIDES))]
        used = {"multiscale": 3, "single": 2, "none": 0}[stem]
        self.stages = nn.ModuleList(
            _first(width) if level == 0 else _convolution(widths[level - 1], width, stride=2)
            for level, width in enumerate(widths[:used])
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(inputs, width, kernel_size=1)
            for inputs in (widths[1:used] if self.resizes else widths[:used])
        )
        if used and idle != "nothing":
            self.idle = _convolution(widths[-1], widths[-1], stride=2)
        self.level_embedding = (
            nn.Parameter(torch.randn(len(STRIDES), width)) if level_embedding else None
        )
        self.embeds_levels = level_embedding and idle != "all"
        self.apply(initialize_convolution)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), rounded up, at strides 2, 4 and 8."""
        maps = self._stem(image)
        if self.embeds_levels:
            assert self.level_embedding is not None
            embeddings = self.level_embedding[..., None, None]  # (levels, C, 1, 1)
            maps = [x + embedding for x, embedding in zip(maps, embeddings, strict=True)]
        return maps

    def _stem(self, image: Tensor) -> list[Tensor]:
        sizes = [[-(-side // stride) for side in image.shape[-2:]] for stride in STRIDES]
        if not self.stages:
            return [image.new_zeros(image.shape[0], 1, *size) for size in sizes]
        # Tokens are channels-last; maps that are so from the start need no copies.
        x, maps = image.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        if self.resizes:
            projected = self.projections[0](maps[-1])
            return [resize(projected, size) for size in sizes]
        return [project(x) for project, x in zip(self.projections, maps, strict=True)]


def initialize_convolution(module: nn.Module) -> None:
    """Normal weights whose variance counts the outputs of a group, and no bias."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _first(width: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(3, width, stride=2),
        *_convolution(width, width, stride=1),
        *_convolution(width, width, stride=1),
        nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
    )


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
