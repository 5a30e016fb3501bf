"""What batch normalisation has kept of the images a network was trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfseg.checks import require_options

Reduction = Literal["mean_per_channel", "paper_sum"]


class NormStatistics:
    """Distance of a batch's statistics from the running ones, over all batch norms of a network.

    Equation (4) of SFDA (Liu et al., CVPR 2021): squared differences of mean and of biased variance
    of what enters each layer. The network is in eval mode, so that nothing moves.

    Args:
        network: whose layers are looked at.
        reduction: ``paper_sum`` adds all channels, ``mean_per_channel`` divides each layer by
            their number: the sum is some thousand times the other losses of the method.

    Raises:
        ValueError: an unknown reduction.
    """

    def __init__(self, network: nn.Module, reduction: Reduction = "mean_per_channel") -> None:
        require_options(reduction=(reduction, Reduction))
        self.network, self.reduction = network, reduction

    @property
    def layers(self) -> dict[str, _BatchNorm]:
        """By name; looked up each time, since Lightning may replace them by synchronised ones."""
        return {
            name: module
            for name, module in self.network.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }

    def shortage(self) -> str:
        """In words, what of a segmenter has no statistics; empty where backbone and head have."""
        if not self.layers:
            return (
                "the network has no batch normalisation, whose statistics the generator would be "
                "held to: L_BNS is left out; choose backbone=resnet50_deeplabv3 for it"
            )
        if any("backbone." in name for name in self.layers):
            return ""
        return (
            "the backbone has no batch normalisation: L_BNS looks at the head's "
            f"{len(self.layers)} layers alone"
        )

    @contextmanager
    def watch(self) -> Iterator[list[Float[Tensor, ""]]]:
        """Collect the distance of every layer that runs inside."""
        distances: list[Tensor] = []
        look = partial(self._look, distances)
        hooks = [layer.register_forward_pre_hook(look) for layer in self.layers.values()]
        try:
            yield distances
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, distances: list[Tensor], layer: _BatchNorm, inputs: tuple[Any, ...]) -> None:
        with torch.autocast(inputs[0].device.type, enabled=False):
            x = inputs[0].float().transpose(0, 1).flatten(1)  # (C, values)
            assert layer.running_mean is not None and layer.running_var is not None
            variance, mean = torch.var_mean(x, dim=1, correction=0)
            squares = (mean - layer.running_mean).square() + (variance - layer.running_var).square()
            distances.append(squares.sum() if self.reduction == "paper_sum" else squares.mean())
