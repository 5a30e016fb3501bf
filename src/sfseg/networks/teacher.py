"""A copy of a network that follows it slowly, as teachers of self-training do."""

from copy import deepcopy

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class Teacher(nn.Module):
    """A network's moving average (Tarvainen and Valpola, NeurIPS 2017), always in eval mode.

    Its weights are parameters that do not train; checkpoints keep them.

    Args:
        network: copied as it is now.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Logits of the average."""
        logits: Tensor = self.network(image)
        return logits

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Move every weight: t <- m t + (1 - m) s; buffers, such as running statistics, are copied.

        Args:
            network: the student s, built like the one that was copied.
            momentum: m in [0, 1]; 0 makes the teacher the student.
        """
        weights = zip(self.network.parameters(), network.parameters(), strict=True)
        for weight, towards in weights:
            weight.lerp_(towards.detach(), 1 - momentum)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
