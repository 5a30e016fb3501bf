"""States of a network, for the length of a block of code or as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def is_exporting() -> bool:
    """Whether torch.export runs the network with symbolic sizes; torch 2.6 cannot say it."""
    asked: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
    return asked()


def recomputed(network: nn.Module) -> set[nn.Module]:
    """Parts whose activations are computed again in the backward pass (gradient checkpointing)."""
    names = ("gradient_checkpointing", "grad_checkpointing")  # here, in timm
    wholes = [p for p in network.modules() if any(getattr(p, n, False) is True for n in names)]
    return {part for whole in wholes for part in whole.modules()}


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Gradients pass through a module but do not reach its weights."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards each of its parts is in its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
