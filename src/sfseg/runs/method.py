"""A method around its network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from torch import nn

from sfseg.config.composition import build
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.ops.inference import Inference
from sfseg.runs.preparation import untrained_of

if TYPE_CHECKING:
    from sfseg.methods.base import Method


def built_method(
    cfg: DictConfig,
    labels: LabelSpace,
    *,
    network: nn.Module,
    eval_domains: Sequence[str],
    inference: Inference,
) -> "Method":
    """The method that the settings of a run describe.

    Args:
        cfg: of the run.
        labels: the task's.
        network: what it trains, see :func:`sfseg.runs.preparation.network_of`.
        eval_domains: see :class:`sfseg.methods.evaluation.Evaluation`; likewise ``inference``.
        inference: evaluation protocol.

    Raises:
        ConfigError: the method refuses a setting.
    """
    try:
        method: Method = build(cfg.method)(
            **untrained_of(cfg, labels),
            network=network,
            labels=labels,
            eval_domains=eval_domains,
            inference=inference,
        )
    except ValueError as error:
        raise ConfigError(f"method: {error}") from error
    return method
