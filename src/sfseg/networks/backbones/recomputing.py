"""Batch normalisation in networks whose activations are computed a second time for gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

HOOKED = "sees_batches_once"


class SeenOnce:
    """Lets running statistics move with the first pass of a batch, not with its recomputation.

    What runs outside of :meth:`first_pass` is a recomputation: it normalises as the first pass did
    and moves nothing.
    """

    def __init__(self) -> None:
        self._is_first = False
        self._momenta: dict[_BatchNorm, float | None] = {}

    @contextmanager
    def first_pass(self, network: nn.Module) -> Iterator[None]:
        """Around every forward pass of the network."""
        # Looked up each time: Lightning may replace them by synchronised ones.
        for norm in network.modules():
            if isinstance(norm, _BatchNorm) and not hasattr(norm, HOOKED):
                setattr(norm, HOOKED, True)
                norm.register_forward_pre_hook(self._before)
                # A recomputation ends, by an exception, as soon as it has what it needs.
                norm.register_forward_hook(self._after, always_call=True)
        self._is_first = True
        try:
            yield
        finally:
            self._is_first = False

    def _before(self, norm: nn.Module, inputs: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        if not self._is_first and norm.training and norm.track_running_stats:
            # Not `track_running_stats`: the same tensors must be saved for the gradient again.
            self._momenta[norm], norm.momentum = norm.momentum, 0.0

    def _after(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        if norm in self._momenta:
            norm.momentum = self._momenta.pop(norm)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
