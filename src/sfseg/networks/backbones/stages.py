"""Backbones whose stages can be run one by one, so that a prompt can enter between them."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Staged(Protocol):
    """A hierarchical transformer, cut where one stage hands over to the next.

    ``embed`` makes the tokens that enter a stage, from the image or from what left the stage
    before; ``run`` sends them through its blocks; ``finish`` makes a map for the head of what
    left it. Tokens are channels-last maps: (B, H, W, C). ``is_staged`` is false where a class has
    these methods for some of its models only.
    """

    is_staged: bool
    stride_multiple: int

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def strides(self) -> tuple[int, ...]: ...

    def embed(self, stage: int, x: Tensor) -> Float[Tensor, "B h w c"]: ...

    def run(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]: ...

    def finish(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B C H W"]: ...


def run_stages(backbone: Staged, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
    """Maps (B, C, H / stride, W / stride) of all stages, finest first."""
    x, maps = image, []
    for stage in range(len(backbone.channels)):
        x = backbone.run(stage, backbone.embed(stage, x))
        maps.append(backbone.finish(stage, x))
    return maps
