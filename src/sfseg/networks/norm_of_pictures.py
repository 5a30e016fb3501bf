"""Batch normalisation of images that are padded, by statistics of their pictures alone."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from sfseg.modes import recomputed
from sfseg.networks.segmenter import Pictures, Segmenter
from sfseg.ops.padding import cells_before, extents
from sfseg.ops.processes import are_several, is_so_in_any, sum_of_processes

log = logging.getLogger(__name__)
Sizes = Sequence[tuple[int, int]] | None
"""Rows and columns of every picture of a batch; None where all fill their image."""


@dataclass
class _Running:
    """What a layer has kept, while it normalises by other numbers."""

    norm: _BatchNorm
    mean: Tensor | None
    variance: Tensor | None
    training: bool

    @property
    def is_synchronised(self) -> bool:
        """Whether the layer's statistics are those of all processes."""
        return self.training and isinstance(self.norm, nn.SyncBatchNorm) and are_several()

    @classmethod
    def of(cls, norm: _BatchNorm) -> "_Running":
        return cls(norm, norm.running_mean, norm.running_var, norm.training)

    def replace(self, device: torch.device) -> None:
        """Normalise by mean 0 and variance 1, which nothing moves."""
        width = self.norm.num_features
        self.norm.training = False
        self.norm.running_mean = torch.zeros(width, device=device)
        self.norm.running_var = torch.ones(width, device=device)

    def restore(self) -> None:
        self.norm.training = self.training
        self.norm.running_mean, self.norm.running_var = self.mean, self.variance

    @torch.no_grad()
    def move(self, mean: Tensor, variance: Tensor) -> None:
        """As torch does after a batch in train mode."""
        if self.mean is None or self.variance is None or not self.norm.track_running_stats:
            return
        assert self.norm.num_batches_tracked is not None
        self.norm.num_batches_tracked.add_(1)
        momentum = self.norm.momentum
        factor = 1 / float(self.norm.num_batches_tracked) if momentum is None else momentum
        # As in torch, unseen by autograd: a pass of a batch without padding has saved them, though
        # its gradient does not look at them in train mode.
        self.mean.data.lerp_(mean.to(self.mean.dtype), factor)
        self.variance.data.lerp_(variance.to(self.variance.dtype), factor)


@contextmanager
def statistics_of_pictures(
    network: nn.Module, valid: Bool[Tensor, "B H W"] | None
) -> Iterator[None]:
    """Batch normalisation looks at pictures alone, not at what pads them.

    Statistics of the batch, gradients and running statistics are those of cells that belong to
    pictures. A batch without padding, and layers that normalise by running statistics, are left to
    torch. A compiled network runs as it was written meanwhile.

    Of several processes all come here at the same time. Layers whose activations are computed again
    in the backward pass see padding; the log says so.

    Args:
        network: a :class:`sfseg.networks.segmenter.Segmenter`; it sees images of one size inside.
        valid: pixels of these images that belong to pictures, see :mod:`sfseg.ops.padding`.
    """
    segmenter, running = cast(Segmenter, network), _looking_at_padding(network, valid)
    before = segmenter.pictures
    if valid is not None:
        segmenter.pictures = Pictures(extents(valid), segmenter.padded_size(valid))
    try:
        with _standardised(segmenter, running):
            yield
    finally:
        segmenter.pictures = before


@contextmanager
def looking_through(
    network: Segmenter, begins: Sequence[tuple[int, int]], size: tuple[int, int]
) -> Iterator[None]:
    """The network's images are windows of those it was given, where these have padding.

    Args:
        network: sees all windows as one batch, each one's of all images together.
        begins: row and column of each window's corner, in pixels.
        size: height and width of each, of whole cells.
    """
    whole = network.pictures
    if whole is not None:
        network.pictures = Pictures(_in_windows(whole.extents, begins, size), size)
    try:
        yield
    finally:
        network.pictures = whole


def _in_windows(
    ends: Sequence[tuple[int, int]], begins: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Rows and columns that each window shows of each picture; both are 0 where one is."""
    shown = (
        (min(height - top, size[0]), min(width - left, size[1]))
        for top, left in begins
        for height, width in ends
    )
    return [sides if min(sides) > 0 else (0, 0) for sides in shown]


@contextmanager
def _standardised(network: Segmenter, running: list[_Running]) -> Iterator[None]:
    """Some layers normalise by statistics of pictures."""
    if not running:
        yield
        return
    hooks = [
        kept.norm.register_forward_pre_hook(partial(_standardise, network, kept))
        for kept in running
    ]
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    for kept in running:
        kept.replace(_device_of(network))
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
        for kept, hook in zip(running, hooks, strict=True):
            hook.remove()
            kept.restore()


def _standardise(
    network: Segmenter, running: _Running, norm: _BatchNorm, inputs: tuple[Any, ...]
) -> Tensor:
    """What enters a layer, so that mean 0 and variance 1 normalise it by its own statistics.

    Args:
        network: that the layer is a part of.
        running: statistics of the layer.
        norm: the layer.
        inputs: maps (B, C, h, w).
    """
    entering: Tensor = inputs[0]
    cells: Sizes = None
    if network.pictures is not None:
        grid, padded = entering.shape[-2:], network.pictures.padded
        cells = [_cells_of(extent, grid, padded) for extent in network.pictures.extents]
    with torch.autocast(entering.device.type, enabled=False):
        x = entering.to(torch.promote_types(entering.dtype, torch.float32))
        standard, mean, variance = _Standard.apply(x, cells, norm.eps, running.is_synchronised)
        running.move(mean, variance)
        return cast(Tensor, standard.to(entering.dtype))


def _cells_of(
    extent: tuple[int, int], grid: Sequence[int], padded: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of cells that belong to a picture, at least one of one that is seen."""
    if 0 in extent:
        return 0, 0
    rows, columns = (cells_before(*place) for place in zip(extent, grid, padded, strict=True))
    return rows, columns


class _Standard(torch.autograd.Function):
    """Maps of mean 0 and variance 1 over the cells of pictures, times the root of 1 + eps.

    By that root the layer divides. Also returns mean and unbiased variance. With y = (x - mean) s
    and n cells, dx = s dy, and in pictures less s (sum dy + y sum(dy y) / (1 + eps)) / n: the sums
    are over padding too, whose values follow from the same statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cells: Sizes, eps: float, is_synchronised: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        total = sum_of_processes if is_synchronised else _own
        parts = [part for part in _cut(x, cells) if part.numel()]
        numbers = x.new_tensor([part[:, 0].numel() for part in parts])
        found = [torch.var_mean(part, dim=(0, 2, 3), correction=0) for part in parts]
        variances, means = (torch.stack(values) for values in zip(*found, strict=True))  # (P, C)
        sums = total(torch.cat([numbers @ means, numbers.sum()[None]]))
        number, mean = sums[-1], sums[:-1] / sums[-1]
        variance = total(numbers @ (variances + (means - mean).square())) / number
        scale = (1 + eps) ** 0.5 * (variance + eps).rsqrt()
        standard = torch.addcmul(_of_channels(-mean * scale), x, _of_channels(scale))
        ctx.save_for_backward(standard, scale, number)
        ctx.cells, ctx.eps, ctx.total = cells, eps, total
        unbiased = variance * number / (number - 1).clamp_min(1)
        ctx.mark_non_differentiable(mean, unbiased)
        return standard, mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        standard, scale, number = ctx.saved_tensors
        axes = (0, 2, 3)
        sums = torch.cat([gradient.sum(axes), (gradient * standard).sum(axes)])
        plain, sloped = (ctx.total(sums) / number).chunk(2)
        constant = _of_channels(scale * plain)
        slope = _of_channels(scale * sloped / (1 + ctx.eps))
        entering = gradient * _of_channels(scale)
        both = (_cut(standard, ctx.cells), _cut(entering, ctx.cells))
        for values, mine in zip(*both, strict=True):
            mine.sub_(torch.addcmul(constant, values, slope))
        return entering, None, None, None


def _cut(maps: Float[Tensor, "B C h w"], cells: Sizes) -> list[Tensor]:
    """Views of the pictures, or all at once."""
    if cells is None:
        return [maps]
    return [maps[k : k + 1, :, :rows, :columns] for k, (rows, columns) in enumerate(cells)]


def _of_channels(values: Float[Tensor, " C"]) -> Float[Tensor, "1 C 1 1"]:
    return values[None, :, None, None]


def _looking_at_padding(network: nn.Module, valid: Bool[Tensor, "B H W"] | None) -> list[_Running]:
    """Layers that would take statistics of padding, be it that of another process."""
    if valid is None and not are_several():
        return []
    # Those of maps: a layer of mere vectors sees no padding.
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    used = [norm for norm in norms if norm.training or norm.running_mean is None]
    twice = recomputed(network)
    running = [_Running.of(norm) for norm in used if norm not in twice]
    if len(running) < len(used) and valid is not None:
        _say_seen(round(100 * (1 - float(valid.float().mean()))))
    if not running:
        return []
    is_padded = valid is not None
    if any(kept.is_synchronised for kept in running):
        is_padded = is_so_in_any(is_padded, _device_of(network))
    return running if is_padded else []


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _own(value: Tensor) -> Tensor:
    return value


@cache
def _say_seen(percent: int) -> None:
    log.warning(
        "%d %% of the pixels of a batch are padding, since its pictures are of several sizes, and "
        "batch normalisation sees them where activations are computed again: set "
        "backbone.gradient_checkpointing=false, or choose crops no larger than the pictures",
        percent,
    )
