"""What training would refuse later, refused before it begins; and callbacks in their order."""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from sfseg.callbacks.order import ordered
from sfseg.callbacks.selection import selection_of
from sfseg.config.composition import build
from sfseg.errors import ConfigError
from sfseg.runs.checkpoints import check_resumable
from sfseg.runs.preparation import label_selection_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from sfseg.methods.base import Method

log = logging.getLogger(__name__)


def check(cfg: DictConfig, method: "Method") -> None:
    """Refuse now what training would refuse later.

    Raises:
        ConfigError: the checkpoint to continue, the optimiser, a metric's name, the precision,
            the share of pseudo-labels to leave out, the callbacks or the amount of training does
            not fit.
    """
    if cfg.ckpt_path is not None:
        warn_if_done(check_resumable(cfg.ckpt_path, method), cfg.trainer.max_steps)
    check_metric(cfg.optimized_metric, method.metric_names())
    check_precision(str(cfg.trainer.get("precision")))
    for setting in ("limit_train_batches", "max_epochs"):
        if cfg.trainer.get(setting) == 0:
            raise ConfigError(f"trainer.{setting} must not be 0, which trains nothing; remove it")
    label_selection_of(cfg)
    if not method.automatic_optimization:
        check_manual_optimization(cfg)
    # Built once to see that they can be; Lightning asks for the optimiser when training starts.
    method.configure_optimizers()
    if (selection := selection_of(built_callbacks(cfg))) is not None:
        selection.require(method)


def check_manual_optimization(cfg: DictConfig) -> None:
    """Refuse what Lightning cannot do for a method that steps several optimisers itself.

    Raises:
        ConfigError: gradients shall be clipped or added up over batches.
    """
    for setting, off in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
        if cfg.trainer.get(setting, off) != off:
            raise ConfigError(
                f"trainer.{setting} must be {'null' if off is None else off} for a method with "
                f"several optimisers, got {cfg.trainer[setting]}; remove it"
            )


def check_precision(precision: str) -> None:
    """Refuse weights in half precision.

    A weight of 8 bits does not move by less than a 256th of itself: the averages of teachers, of
    ``callbacks=[default,ema]`` and of normalisation, whose steps are smaller, would stand still.

    Raises:
        ConfigError: says what is as fast.
    """
    is_half = precision.endswith("-true") and precision not in ("32-true", "64-true")
    if is_half or precision.startswith("transformer-engine"):
        raise ConfigError(
            f"trainer.precision={precision} keeps weights in half precision, in which running "
            "means stand still; set trainer.precision=bf16-mixed or 32-true"
        )


def check_metric(name: str | None, known: list[str]) -> None:
    """Refuse a misspelt evaluation metric now rather than after training.

    Raises:
        ConfigError: lists the metrics that the evaluation logs.
    """
    if name is not None and name.startswith("val/") and name not in known:
        raise ConfigError(f"optimized_metric={name!r} is not logged; choose one of {known}")


def warn_if_done(steps: int, max_steps: int) -> None:
    """Say so when a resumed run has nothing left to train."""
    if steps >= max_steps:
        log.warning(
            "the checkpoint is at step %d and trainer.max_steps=%d: nothing is left to train; "
            "raise trainer.max_steps to go on",
            steps,
            max_steps,
        )


def built_callbacks(cfg: DictConfig) -> "list[Callback]":
    """Those of the configuration in the order that they need; null takes one out.

    Raises:
        ConfigError: one needs another that is not there.
    """
    nodes = cfg.callbacks.items()
    return ordered({str(name): build(node) for name, node in nodes if node is not None})
