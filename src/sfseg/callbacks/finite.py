"""Ends training, or leaves a step out, where its loss or its gradients are not finite."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import FSDPPrecision, MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from sfseg.callbacks.base import trained
from sfseg.callbacks.kept_step import Backward, Beginning, Places, storable
from sfseg.callbacks.provenance import Provenance
from sfseg.data.module import AdaptationData
from sfseg.errors import NumericError
from sfseg.storage.atomic import write_whole
from sfseg.storage.lightning_state import callbacks_of, datamodule_of

log = logging.getLogger(__name__)
Policy = Literal["stop", "skip"]
Value = TypeVar("Value")
SHOWN = 5
"""A message names so many parameters."""


class FiniteGuard(Callback):
    """No optimiser steps on a loss or a gradient that is NaN or infinite.

    ``stop`` ends the run before the step, so that neither weights nor checkpoints see it. ``skip``
    leaves the step out: weights, state of optimisers, buffers (statistics of normalisation) and
    what the method returns to by ``undo_step`` stay as they were; iteration and learning rate go
    on. All processes decide alike. With a gradient scaler (``precision=16-mixed``), which leaves
    steps with infinite gradients out by itself, the loss alone is looked at.

    Under manual optimisation the check comes with each optimiser's step; a step can be skipped
    where all backward passes come before the first of them.

    The first of these steps are kept in files, to be run again by ``sfseg-train replay=<file>``:
    each process whose loss or gradient it was writes ``step_<iteration>.pt``, of several processes
    ``step_<iteration>_rank<rank>.pt``. That needs :class:`Provenance`, which knows the run's
    configuration, and a model that each process holds as a whole.

    Args:
        on_nonfinite: ``stop`` or ``skip``.
        max_skips: steps that may be left out in the whole run; one more ends it.
        keep: steps that are kept in files, at most, in the whole run.
        folder: of these files; None: none.

    Raises:
        ValueError: an unknown policy or a negative number.
    """

    def __init__(
        self,
        on_nonfinite: Policy = "stop",
        max_skips: int = 10,
        keep: int = 1,
        folder: str | None = None,
    ) -> None:
        if on_nonfinite not in get_args(Policy):
            raise ValueError(
                f"on_nonfinite must be one of {', '.join(get_args(Policy))}, got {on_nonfinite!r}"
            )
        for name, value in (("max_skips", max_skips), ("keep", keep)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.on_nonfinite, self.max_skips = on_nonfinite, max_skips
        self.keep, self.folder = keep, None if folder is None else Path(folder)
        self.skips = self.kept = 0
        self.found: str | None = None  # what was not finite the last time, in words
        self._record: Mapping[str, Any] | None = None
        self._backwards: list[Backward] = []
        self._images: dict[str, Tensor] = {}
        self._begun: Beginning | None = None
        self._places: Places
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._backwards, self._begun, self._places = [], None, Places(pl_module)
        records = [c.content for c in callbacks_of(trainer) if isinstance(c, Provenance)]
        is_whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        self._record = records[0] if records and is_whole else None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._images = {domain: part["index"] for domain, part in batch.items()}
        self._steps = 0
        if self.on_nonfinite == "skip" or self._keeps:
            # Where gradients of several batches add up, the state before the first of them.
            self._begun = self._begun or Beginning(pl_module, self._places)
            self._begun.add(pl_module, batch, batch_idx)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        step = trained(pl_module).step
        done = Backward(step.iteration, loss.detach(), step.terms, self._images)
        self._backwards.append(done)
        if self._begun is not None:
            self._begun.passes.append(done)
        # Anomaly detection ends the backward pass of such a loss with an error of its own.
        if torch.is_anomaly_enabled() and not _all_finite(trainer, [done.loss], []):
            text, kept = self._found(trainer, pl_module)
            raise NumericError(f"{text}; {_way_out(pl_module)}{kept}")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        step = trained(pl_module).step
        # What an earlier optimiser of the iteration has had skipped is counted once.
        if not step.is_skipped and (self._backwards or not self._steps):
            losses = [done.loss for done in self._backwards]
            if not _all_finite(trainer, losses, _gradients(trainer)):
                self._refuse(trainer, pl_module)
            self._backwards = []
        if step.is_skipped:
            # Without gradients, an optimiser leaves parameters and their state alone.
            for parameter in _parameters(trainer):
                parameter.grad = None
        self._steps += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trained(pl_module).step.is_skipped and self._begun is not None:
            self._begun.undo()
        if self._steps:
            self._begun = None
        if not pl_module.automatic_optimization:
            # What a method steps on later still shows in the gradients.
            self._backwards = []

    def state_dict(self) -> dict[str, Any]:
        return {"skips": self.skips, "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skips = int(state_dict["skips"])
        self.kept = int(state_dict.get("kept", 0))  # not in those of earlier versions

    @property
    def _keeps(self) -> bool:
        """Whether another step would be kept; the same on all processes."""
        return self._record is not None and self.folder is not None and self.kept < self.keep

    def _refuse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run or mark the step as skipped."""
        text, kept = self._found(trainer, pl_module)
        if self.on_nonfinite == "stop":
            raise NumericError(f"{text}; {_way_out(pl_module)}{kept}")
        if self._steps:
            raise NumericError(
                f"{text}; it cannot be skipped, since another optimiser has stepped in this "
                f"iteration; {_way_out(pl_module)}{kept}"
            )
        if self.skips == self.max_skips:
            raise NumericError(
                f"{text}; callbacks.finite.max_skips={self.max_skips} steps have been skipped "
                f"before; lower method.lr, or raise it{kept}"
            )
        self.skips += 1
        trained(pl_module).step.is_skipped = True
        if trainer.is_global_zero:
            log.warning(
                "%s; step skipped, %d of at most %d%s", text, self.skips, self.max_skips, kept
            )

    def _found(self, trainer: Trainer, pl_module: LightningModule) -> tuple[str, str]:
        """What is not finite, and where the step is kept, if it is; all processes come here."""
        text, is_here = self._describe(trainer, pl_module)
        self.found = text
        if not self._keeps or self._begun is None or self._record is None:
            return text, ""
        self.kept += 1
        content = self._begun.content(trainer, pl_module, self._record, text)
        written = self._write(content) if is_here else None
        places = [place for place in _of_all(trainer, written) if place is not None]
        if not places:
            return text, ""
        return text, (
            f"; the step is kept: {', '.join(places)}; look at it with "
            f"sfseg-train replay={places[0]}"
        )

    def _write(self, content: Mapping[str, Any]) -> str | None:
        """Write the file of a step; None where that fails, which must not hide what led to it."""
        assert self.folder is not None, "it keeps"
        suffix = f"_rank{content['rank']}" * (content["world_size"] > 1)
        path = self.folder / f"step_{content['iteration']:06d}{suffix}.pt"
        try:
            stored = storable(content)
            write_whole(path, lambda file: torch.save(stored, file))
        # torch reports a full disk, and too little memory, as a RuntimeError.
        except (OSError, RuntimeError, MemoryError, TypeError) as error:
            log.error("the step cannot be kept in %s: %s", path, error)
            return None
        return str(path)

    def _describe(self, trainer: Trainer, pl_module: LightningModule) -> tuple[str, bool]:
        """What is not finite, on whichever process; and whether that is so on this one."""
        # Losses of several passes of a step may hold the same term: it is said once.
        found = dict.fromkeys(
            f"iteration {done.iteration}: {_bad_terms(done)}{_names(trainer, [done])}"
            for done in self._backwards
            if not torch.isfinite(done.loss).all()
        )
        mine = (bool(found), "; ".join(found) or self._describe_gradients(trainer, pl_module))
        everyone = _of_all(trainer, mine)
        first = max(is_loss for is_loss, _ in everyone)
        texts = [(k, text) for k, (is_loss, text) in enumerate(everyone) if is_loss == first]
        if trainer.world_size == 1:
            return texts[0][1], True
        return "; ".join(f"process {k}: {text}" for k, text in texts), mine[0] == first

    def _describe_gradients(self, trainer: Trainer, pl_module: LightningModule) -> str:
        bad = [
            name
            for name, parameter in pl_module.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ]
        listed = ", ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" * (len(bad) > SHOWN))
        return (
            f"iteration {trained(pl_module).step.iteration}: the loss is finite, but not the "
            f"gradient of {listed}{_names(trainer, self._backwards)}"
        )


def _way_out(module: LightningModule) -> str:
    if not module.automatic_optimization:
        return "lower method.lr, or set trainer.precision=32-true"
    return (
        "lower method.lr, set trainer.gradient_clip_val or trainer.precision=32-true; "
        "callbacks.finite.on_nonfinite=skip leaves such steps out"
    )


def _of_all(trainer: Trainer, mine: Value) -> list[Value]:
    """What each process has found, in their order; all come here, since all have heard of it."""
    everyone = [mine] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(everyone, mine)
    return everyone


def _parameters(trainer: Trainer) -> Iterator[Tensor]:
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def _gradients(trainer: Trainer) -> list[Tensor]:
    """All that are to be finite: none where a gradient scaler expects infinite ones."""
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision | FSDPPrecision) and plugin.scaler is not None:
        return []
    return [p.grad for p in _parameters(trainer) if p.grad is not None]


def _all_finite(trainer: Trainer, losses: list[Tensor], gradients: list[Tensor]) -> bool:
    """Whether all are, on all processes; waits for the device once if so.

    The sum of squares is found 9 times faster than the largest entry on a processor, but may
    be infinite where no gradient is: then that decides.
    """
    return any(_has_finite(trainer, losses, gradients, norm) for norm in (2.0, float("inf")))


def _has_finite(
    trainer: Trainer, losses: list[Tensor], gradients: list[Tensor], norm: float
) -> bool:
    device = trainer.strategy.root_device
    values = [*losses, get_total_norm(gradients, norm)]
    flat = torch.stack([value.detach().sum().to(device).float() for value in values])
    is_bad = (~torch.isfinite(flat).all()).float()
    if trainer.world_size > 1:
        is_bad = cast(Tensor, trainer.strategy.reduce(is_bad, reduce_op="max"))
    return not bool(is_bad)


def _bad_terms(done: Backward) -> str:
    bad = {
        name: float(term.sum())
        for name, term in done.terms.items()
        if not torch.isfinite(term).all()
    }
    if not bad:
        return f"the loss is {float(done.loss.sum())}"
    return "of the loss, " + ", ".join(f"{name} is {value}" for name, value in bad.items())


def _names(trainer: Trainer, backwards: list[Backward]) -> str:
    """Files of the batches, domain by domain."""
    data = datamodule_of(trainer)
    scenes = data.scenes if isinstance(data, AdaptationData) else {}
    found = []
    for done in backwards:
        for domain, index in done.images.items():
            known = scenes.get(f"{domain}_train")
            names = [str(k) if known is None else known.name(k) for k in index.tolist()]
            found.append(f"{domain} images {', '.join(names)}")
    return f" ({'; '.join(found)})" if found else ""
