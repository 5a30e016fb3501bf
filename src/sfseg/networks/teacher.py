"""Copies of a network: one that stays as it is, one that follows slowly."""

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sfseg.networks.precision import Change, cast, without_narrowing


def ramped(momentum: float, move: int) -> float:
    """Of a teacher's t-th move, from 1: min(1 - 1 / (t + 1), m), so that it forgets its start.

    Args:
        momentum: m in [0, 1].
        move: t.
    """
    return min(1 - 1 / (move + 1), momentum)


class Frozen(nn.Module):
    """A network as it is now: never trained, always in eval mode, kept in checkpoints.

    Gradients pass through it to its input.

    Args:
        network: copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stays in eval mode whatever is asked for."""
        return super().train(False)

    def forward(self, image: Shaped[Tensor, "B 3 H W"], **options: Any) -> Any:
        """What the network says."""
        return self.network(image, **options)


class Teacher(Frozen):
    """A network's moving average (Tarvainen and Valpola, NeurIPS 2017), as self-training has it.

    Its weights are parameters that do not train, and nothing is propagated through it. They stay in
    single precision where the student's do not: the share of it that they take over is smaller than
    the last digit of half precision.

    Args:
        network: copied as it is now.
    """

    @torch.no_grad()
    def forward(self, image: Shaped[Tensor, "B 3 H W"], **options: Any) -> Any:
        """Logits (B, K, H, W) of the average."""
        return super().forward(self.fitting(image), **options)

    def fitting(self, value: Any) -> Any:
        """An image, or maps of it, in a precision that the average can take."""
        first = next(self.parameters())
        return value if torch.is_autocast_enabled(first.device.type) else cast(value, first)

    def _apply(self, fn: Change, recurse: bool = True) -> "Teacher":
        kept: Teacher = super()._apply(without_narrowing(fn), recurse)  # type: ignore[no-untyped-call]
        return kept

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Move every weight: t <- m t + (1 - m) s; buffers, such as running statistics, are copied.

        Args:
            network: the student s, built like the one that was copied.
            momentum: m in [0, 1]; 0 makes the teacher the student.
        """
        weights = zip(self.network.parameters(), network.parameters(), strict=True)
        for weight, towards in weights:
            weight.lerp_(towards.detach().to(weight.dtype), 1 - momentum)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
