"""Statistics of batch normalisation: of which images, and of which of their pixels."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfseg.errors import ConfigError
from sfseg.modes import evaluating, recomputes
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.processes import are_several, is_so_in_any, sum_of_processes

log = logging.getLogger(__name__)

FakeStatistics = Literal["own", "running"]
"""What a network normalises images with that a generator has made.

Their ``own`` statistics, which SFDA's (4) makes resemble the source's, so that network and source
model agree before anything is learnt; or its ``running`` ones, which are the target's and set both
apart.
"""


def tracking_norms(network: nn.Module) -> list[_BatchNorm]:
    """Batch normalisation with running statistics, in the order of the network's modules."""
    # Looked up each time: Lightning may replace them by synchronised ones.
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def require_moving_statistics(network: Segmenter, method: str) -> None:
    """Refuse a backbone whose statistics are to stay as they are.

    Raises:
        ConfigError: names the method and the setting.
    """
    if network.batch_norm in ("frozen_statistics", "frozen"):
        raise ConfigError(
            f"backbone.batch_norm must be train or frozen_affine for {method}, whose statistics "
            f"are the target's, got {network.batch_norm}"
        )


def use_batch_statistics(network: nn.Module) -> None:
    """Put batch normalisation in train mode and all else, such as dropout, in eval mode."""
    network.eval()
    for norm in tracking_norms(network):
        norm.train()


@contextmanager
def own_statistics(network: nn.Module) -> Iterator[None]:
    """Eval mode, in which batch normalisation uses the statistics of its batch and keeps none.

    Layers that were in eval mode, as frozen ones are, use their running statistics. Afterwards each
    part of the network is in its own mode again.
    """
    moving = [norm for norm in tracking_norms(network) if norm.training]
    with evaluating(network):
        for norm in moving:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm in moving:
                norm.track_running_stats = True


def passing_by(network: nn.Module, statistics: FakeStatistics) -> AbstractContextManager[None]:
    """The mode of a network for images that its running statistics shall not see."""
    return own_statistics(network) if statistics == "own" else evaluating(network)


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
        self.mean.lerp_(mean.to(self.mean.dtype), factor)
        self.variance.lerp_(variance.to(self.variance.dtype), factor)


@contextmanager
def statistics_of_pictures(
    network: nn.Module, valid: Bool[Tensor, "B H W"] | None
) -> Iterator[None]:
    """Batch normalisation looks at pictures alone, not at what pads them.

    Statistics of the batch, gradients and running statistics are those of cells that belong to
    pictures. A batch without padding, and layers that normalise by running statistics, are left to
    torch. A compiled network runs as it was written meanwhile.

    Of several processes all come here at the same time. Networks that compute activations again in
    the backward pass see padding; the log says so.

    Args:
        network: a :class:`sfseg.networks.segmenter.Segmenter`; it sees images of one size inside.
        valid: pixels of these images that belong to pictures, see :mod:`sfseg.ops.padding`.
    """
    running = _looking_at_padding(network, valid)
    if not running:
        yield
        return
    hooks = [
        kept.norm.register_forward_pre_hook(
            partial(_standardise, cast(Segmenter, network), valid, kept)
        )
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
    network: Segmenter,
    valid: Bool[Tensor, "B H W"] | None,
    running: _Running,
    norm: _BatchNorm,
    inputs: tuple[Any, ...],
) -> Tensor:
    """What enters a layer, so that mean 0 and variance 1 normalise it by its own statistics."""
    entering: Tensor = inputs[0]  # (B, C, h, w)
    if valid is None:
        cells = torch.ones_like(entering[:, 0], dtype=torch.bool)
    else:
        cells = network.at_cells(valid, entering, outside=0)
        cells[:, 0, 0] = True  # a map may have a single cell
    total = sum_of_processes if running.is_synchronised else _own
    with torch.autocast(entering.device.type, enabled=False):
        x = entering.to(torch.promote_types(entering.dtype, torch.float32))
        counts = cells[:, None].to(x.dtype)
        axes = (0, 2, 3)
        sums = total(torch.cat([(x * counts).sum(axes), counts.sum()[None]]))
        number = sums[-1]
        mean = sums[:-1] / number
        centred = x - mean[:, None, None]
        variance = total((centred.square() * counts).sum(axes)) / number
        running.move(mean, variance * number / (number - 1).clamp_min(1))
        # The layer divides by the root of 1 + eps.
        scale = (1 + norm.eps) ** 0.5 * (variance + norm.eps).rsqrt()
        standard: Tensor = centred * scale[:, None, None]
        return standard.to(entering.dtype)


def _looking_at_padding(network: nn.Module, valid: Bool[Tensor, "B H W"] | None) -> list[_Running]:
    """Layers that would take statistics of padding, be it that of another process."""
    if valid is None and not are_several():
        return []
    # Those of maps: a layer of mere vectors sees no padding.
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    running = [_Running.of(n) for n in norms if n.training or n.running_mean is None]
    if not running or recomputes(network):
        if running and valid is not None:
            _say_seen(round(100 * (1 - float(valid.float().mean()))))
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


def reestimate(
    network: Segmenter,
    image: Shaped[Tensor, "B 3 H W"],
    *,
    momentum: float,
    valid: Bool[Tensor, "B H W"] | None = None,
) -> Float[Tensor, "B K H W"]:
    """Move all running statistics towards those of a batch: r <- (1 - m) r + m b.

    Every layer normalises with the statistics of the batch, so that the next one's are those of
    target features too. Of several processes b are the statistics of all their images. No gradient
    is taken; the network stays as :func:`use_batch_statistics` puts it.

    Args:
        network: changed in place.
        image: the batch.
        momentum: m in [0, 1].
        valid: pixels that belong to pictures; None: all, see :func:`statistics_of_pictures`.

    Returns:
        Logits by the statistics of the process's own batch.
    """
    use_batch_statistics(network)
    norms = tracking_norms(network)
    before, momenta = _statistics(norms), [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0  # running statistics are then the batch's
        with torch.no_grad(), statistics_of_pictures(network, valid):
            logits: Tensor = network(image)
    finally:
        for norm, usual in zip(norms, momenta, strict=True):
            norm.momentum = usual
    pixels = image[:, 0].numel() if valid is None else int(valid.sum())
    mean, variance = _of_all_processes(*_statistics(norms), pixels=pixels)
    sizes = [norm.num_features for norm in norms]
    moved = (old.lerp(new, momentum) for old, new in zip(before, (mean, variance), strict=True))
    means, variances = (torch.split(flat, sizes) for flat in moved)
    for norm, of_mean, of_variance in zip(norms, means, variances, strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(of_mean)
        norm.running_var.copy_(of_variance)
    return logits


def _statistics(norms: list[_BatchNorm]) -> tuple[Tensor, Tensor]:
    """Running means and variances of all layers, one after the other; copies."""
    means, variances = zip(*((norm.running_mean, norm.running_var) for norm in norms), strict=True)
    return torch.cat(means), torch.cat(variances)


def _of_all_processes(mean: Tensor, variance: Tensor, *, pixels: int) -> tuple[Tensor, Tensor]:
    """Statistics of what all processes have seen, each of as many pixels as it says."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean, variance
    seen = mean.new_tensor(float(pixels))
    weight = seen / _average(seen)
    common = _average(weight * mean)
    return common, _average(weight * (variance + (mean - common).square()))


def _average(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
