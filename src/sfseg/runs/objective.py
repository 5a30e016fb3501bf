"""What a sweep optimises: a score by labels, or one that needs none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, Trainer

from sfseg.callbacks.base import is_adapting
from sfseg.callbacks.label_free_score import PREFIX, SCORES, LabelFreeScore
from sfseg.callbacks.selection import selection_of
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from sfseg.methods.base import Method


def check_objective(name: str | None, method: "Method", callbacks: Sequence[Callback]) -> None:
    """Refuse a misspelt metric of evaluations now rather than after training.

    Args:
        name: ``optimized_metric``.
        method: of the run.
        callbacks: of the run.

    Raises:
        ConfigError: lists the metrics that evaluations log.
    """
    if name is None or not name.startswith(("val/", PREFIX)):
        return
    is_scored = any(isinstance(callback, LabelFreeScore) for callback in callbacks)
    label_free = [f"{PREFIX}{score}" for score in SCORES if is_scored and is_adapting(method)]
    known = [*method.metric_names(), *label_free]
    if name not in known:
        raise ConfigError(f"optimized_metric={name!r} is not logged; choose one of {known}")


def objective(trainer: Trainer, callbacks: Sequence[Callback], name: str | None) -> float | None:
    """The value a sweep optimises: of the weights that the tables show.

    Raises:
        ConfigError: the run has logged no such metric; lists those it has.
    """
    if name is None:
        return None
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    selection = selection_of(callbacks)
    chosen = None if selection is None else selection.step
    step = trainer.global_step if chosen is None else chosen
    for callback in callbacks:
        if isinstance(callback, LabelFreeScore):
            logged |= callback.logged(step)
    if name not in logged:
        raise ConfigError(
            f"optimized_metric={name!r} was not logged; choose one of {sorted(logged)}"
        )
    return logged[name]
