"""Lightning's inner state, as far as this library reads or sets it: here and nowhere else.

It concerns where a run stands, how its steps are counted and what its trainer holds. Each function
says why Lightning's own behaviour does not do. Seen with Lightning 2.6.4 and 2.6.6. Where another
version has moved or renamed something, it raises :class:`ConfigError`: a value set where nobody
reads it any more would change results without a word.
"""

from collections.abc import Sequence
from typing import Any, cast

import lightning
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer

from sfseg.errors import ConfigError

SUPPORTED = ">=2.6.4,<2.7"
"""Versions of Lightning, as ``pyproject.toml`` asks for them."""
COUNTERS = {"ready", "started", "processed", "completed"}
"""Of batches, in a checkpoint."""


def count_first_optimizer_only(optimizers: Sequence[LightningOptimizer]) -> None:
    """Let the first optimiser's steps alone be the trainer's, for the batch at hand.

    Lightning adds the steps of all to ``global_step``, so that a run of two would end after half of
    its batches. It sets the two hooks that count anew before every ``training_step``.
    """
    for optimizer in optimizers[1:]:
        _replace(optimizer, "_on_before_step", _nothing)
        _replace(optimizer, "_on_after_step", _nothing)


def set_batches_that_stepped(trainer: Trainer, steps: int) -> None:
    """Set the step that the next numbers are logged at.

    Lightning keeps it apart from ``global_step``, and a run that goes on from a checkpoint written
    during or after an evaluation counts the batch before that twice.
    """
    _replace(trainer.fit_loop.epoch_loop, "_batches_that_stepped", steps)


def processed_batches(trainer: Trainer) -> int:
    """Training batches that have been computed, whether or not what follows them has happened.

    Lightning's public count, ``global_step``, is of optimiser steps.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    try:
        return int(progress.processed)
    except AttributeError as error:
        raise _moved("fit_loop.epoch_loop.batch_progress.total.processed") from error


def between_batches(checkpoint: dict[str, Any], *, is_evaluating: bool) -> None:
    """Let a checkpoint say that its last batch is over and the next has not begun.

    Lightning writes its counters as they are at the moment, and takes one that is saved when a
    batch starts, or in the middle of an evaluation, for a run that has failed there: it would
    repeat what has happened, or leave out what has not.

    Args:
        checkpoint: about to be written.
        is_evaluating: whether an evaluation during training is under way; it begins again.
    """
    for progress in _counters(checkpoint, "epoch_loop.batch_progress"):
        progress.update(dict.fromkeys(COUNTERS, progress["processed"]))
    begun = int(is_evaluating)
    for progress in _counters(checkpoint, "epoch_loop.val_loop.batch_progress"):
        progress.update(ready=begun, started=begun, processed=0, completed=0)


def count_as_averaged(average: WeightAveraging, steps: int) -> None:
    """Let an average of weights pass over what the last optimiser step has done.

    ``should_update`` returning False postpones: Lightning asks again at the next batch, which may
    come before the next step where gradients add up.

    Args:
        average: keeps the step of its last update in its state.
        steps: the trainer's ``global_step``.
    """
    state = average.state_dict()
    if "latest_update_step" not in state:
        raise _moved("WeightAveraging.state_dict()['latest_update_step']")
    average.load_state_dict({**state, "latest_update_step": steps})


def datamodule_of(trainer: Trainer) -> Any:
    """The DataModule that a trainer works with, None where it was given loaders.

    Lightning sets it as an attribute that it neither documents nor types.
    """
    if not hasattr(trainer, "datamodule"):
        raise _moved("Trainer.datamodule")
    return trainer.datamodule


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All callbacks in the order in which they are called; Lightning does not type them."""
    if not hasattr(trainer, "callbacks"):
        raise _moved("Trainer.callbacks")
    return cast(list[Callback], trainer.callbacks)


def _counters(checkpoint: dict[str, Any], loop: str) -> list[dict[str, int]]:
    """Those of all batches, and of this run's, which share their names."""
    try:
        progress = checkpoint["loops"]["fit_loop"][loop]
        found: list[dict[str, int]] = [progress["total"], progress["current"]]
    except KeyError as error:
        raise _moved(f"checkpoint['loops']['fit_loop'] with {error} of {loop}") from error
    if any(counters.keys() != COUNTERS for counters in found):
        raise _moved(f"{loop} of {', '.join(sorted(COUNTERS))}")
    return found


def _replace(owner: object, name: str, value: object) -> None:
    if name not in vars(owner):
        raise _moved(f"{type(owner).__name__}.{name}")
    setattr(owner, name, value)


def _moved(what: str) -> ConfigError:
    return ConfigError(
        f"Lightning {lightning.__version__} has no {what}, which sfseg relies on; install "
        f"'lightning{SUPPORTED}'"
    )


def _nothing() -> None:
    """Counts nothing."""
