"""Statistics of batch normalisation, taken anew from other images."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfseg.errors import ConfigError
from sfseg.modes import evaluating
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.processes import are_several, sum_of_processes

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
    if not are_several():
        return mean, variance
    seen = mean.new_tensor(float(pixels))
    weight = seen / _average(seen)
    common = _average(weight * mean)
    return common, _average(weight * (variance + (mean - common).square()))


def _average(value: Tensor) -> Tensor:
    return sum_of_processes(value) / dist.get_world_size()
