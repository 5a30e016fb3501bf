"""``sfseg-train replay=<file>``: run a training step again that was not finite."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sfseg.callbacks.diagnosis import Diagnosis, Origin, Share
from sfseg.callbacks.finite import FiniteGuard
from sfseg.callbacks.kept_step import set_random_states
from sfseg.config.composition import build, detached
from sfseg.errors import ConfigError, NumericError
from sfseg.networks.weights.checkpoint import require_same_keys
from sfseg.ops.inference import Inference
from sfseg.optim import pairs_of, take_settings
from sfseg.runs import refinement
from sfseg.runs.checkpoints import empty_backbone, with_labels, without_starts
from sfseg.runs.kept_file import SETTING, TRAINER, KeptStep, read_step
from sfseg.runs.method import built_method
from sfseg.runs.preparation import network_of
from sfseg.runs.records import record_of
from sfseg.runs.trainer_settings import check_step

if TYPE_CHECKING:
    from sfseg.methods.base import Method

Values = Mapping[str, float]
REFINED_BY = "pseudo_labels.sam.model"


@dataclass(frozen=True)
class Replayed:
    """What a step did in the run and does now.

    step: that was kept.
    before, now: of each backward pass, the loss and its terms by name.
    failure: what is not finite now; None where all is.
    origins, gradients: see :class:`Diagnosis`.
    notes: why it may differ.
    """

    step: KeptStep
    before: list[Values]
    now: list[Values]
    failure: str | None
    origins: list[Origin]
    gradients: Mapping[str, Share]
    notes: list[str]

    @property
    def is_equal(self) -> bool:
        """Whether all terms of all passes are the run's, to the bit; NaN equals NaN."""
        return repr(self.before) == repr(self.now)

    @property
    def verdict(self) -> str:
        """What has come out, in a sentence."""
        changes = " ".join(self.step.changes)
        if self.failure is None:
            return f"finite with {changes}" if changes else "not reproduced: the step is finite now"
        if changes:
            return f"not finite with {changes} either: {self.failure}"
        bits = "to the bit" if self.is_equal else "with other values of the loss"
        return f"reproduced {bits}: {self.failure}"


def replay(path: str | Path, changes: Sequence[str] = ()) -> Replayed:
    """Run a kept step again, on one process, without data and without a trace on the disk.

    The random generators of this process are left in the state of the step.

    Args:
        path: of the file, which a stranger may have written.
        changes: settings of the run to be changed for it, as ``key=value``.

    Raises:
        ConfigError: the file cannot be used, or a setting not be changed.
    """
    step, watch, guard = read_step(path, changes), Diagnosis(), FiniteGuard()
    torch.set_float32_matmul_precision(
        OmegaConf.select(step.config, "matmul_precision", default="high")
    )
    with _fitting(step):
        before = [_values(done["loss"], done["terms"]) for done in step.content["passes"]]
    trainer, method = _trainer(step, [_Before(step), watch, guard]), _built(step, changes)
    batches = cast("Dataset[Any]", [part["batch"] for part in step.content["batches"]])
    loader = DataLoader(batches, batch_size=None, collate_fn=_same)
    failure = None
    try:
        trainer.fit(method, loader)
    except NumericError as error:
        failure = guard.found or str(error)
    except RuntimeError as error:
        # Anomaly detection, which says whose gradient it was.
        if "returned nan values" not in str(error):
            raise
        failure = str(error).partition("\n")[0]
    return Replayed(
        step,
        before,
        [_values(done.loss, done.terms) for done in watch.passes],
        failure,
        watch.origins,
        watch.gradients,
        _notes(step, trainer),
    )


def _built(step: KeptStep, changes: Sequence[str]) -> "Method":
    """The method of the run, of any weights; of files that its settings name none is opened."""
    config, labels = step.config, step.labels
    with _fitting(step):
        config.backbone.network = with_labels(empty_backbone(config), labels)
        if "compile" in config.backbone.network:
            config.backbone.network.compile = False
        config.method = without_starts(detached(config.method))
        method = built_method(
            config,
            labels,
            network=network_of(config, labels, None),
            eval_domains=["target"],
            inference=Inference(),
        )
        require_same_keys(
            method.state_dict(), step.content["state_dict"], source=f"{SETTING}={step.path}"
        )
        check_step(config.trainer, steps_itself=not method.automatic_optimization)
    refine = OmegaConf.select(config, "pseudo_labels.refine", default="none")
    if refine != "none" and method.labels_online:
        if not any(change.lstrip("+").startswith(f"{REFINED_BY}=") for change in changes):
            raise ConfigError(
                f"{SETTING}={step.path} is of a step that refines its labels by "
                f"{OmegaConf.select(config, REFINED_BY)}, which a file must not open by itself; "
                f"add {REFINED_BY}=<folder or owner/name>, or pseudo_labels.refine=none"
            )
        method.refiner = refinement.loaded(config, None)
    return method


@contextmanager
def _fitting(step: KeptStep) -> Iterator[None]:
    """Errors of building what the file describes; where settings were changed, these are named.

    Raises:
        ConfigError: its content, or the changes, do not fit.
    """
    try:
        with record_of(f"{SETTING}={step.path}"):
            try:
                yield
            except RuntimeError as error:  # torch's, of sizes that do not fit
                raise ValueError(str(error)) from error
    except ConfigError as error:
        if not step.changes:
            raise
        raise ConfigError(
            f"{SETTING}={step.path} cannot be run with {' '.join(step.changes)}: "
            f"{error.__cause__ or error}; change settings that leave the network and its "
            "optimisers as they are"
        ) from error


def _trainer(step: KeptStep, callbacks: list[Callback]) -> Trainer:
    """One like the run's, of one process that takes itself for the one of the run."""
    theirs = step.config.trainer
    settings = {
        name: theirs[name] for name in (TRAINER | {"accumulate_grad_batches"}) & theirs.keys()
    }
    trainer: Trainer = build(
        {"_target_": "lightning.pytorch.Trainer", **settings, "max_steps": -1},
        max_epochs=1,
        devices=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    # Seeds follow from it.
    cast(SingleDeviceStrategy, trainer.strategy).global_rank = step.content["rank"]
    return trainer


def _notes(step: KeptStep, trainer: Trainer) -> list[str]:
    notes, asked = step.notes(trainer.strategy.root_device.type), step.config.trainer.precision
    if trainer.precision != asked:
        notes.append(f"trainer.precision={asked} was asked for, and {trainer.precision} is used")
    return notes


class _Before(Callback):
    """Makes everything what it was before the step."""

    def __init__(self, step: KeptStep) -> None:
        self.step = step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept = self.step.content
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        with _fitting(self.step):
            pl_module.load_state_dict(kept["state_dict"])
            pl_module.on_load_checkpoint(kept["method"])
            for optimizer, state in zip(trainer.optimizers, kept["optimizer_states"], strict=True):
                optimizer.load_state_dict(state)
            for schedule, state in zip(schedules, kept["schedule_states"], strict=True):
                schedule.load_state_dict(state)
            if kept["precision_state"]:
                trainer.precision_plugin.load_state_dict(kept["precision_state"])
        of_optimizer = {id(schedule.optimizer): schedule for schedule in schedules}
        fresh = pairs_of(pl_module.configure_optimizers())
        for optimizer, wanted in zip(trainer.optimizers, fresh, strict=True):
            take_settings((optimizer, of_optimizer.get(id(optimizer))), wanted)
        self._number_batches(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        with _fitting(self.step):
            states = self.step.content["batches"][batch_idx]["random"]
            set_random_states(states, pl_module.device)

    def _number_batches(self, module: LightningModule) -> None:
        """Have ``training_step`` see the numbers of the run's batches: draws may follow them."""
        own, numbers = module.training_step, [p["batch_idx"] for p in self.step.content["batches"]]
        if "batch_idx" not in signature(own).parameters:
            return

        def training_step(batch: Any, batch_idx: int) -> Any:
            return own(batch, numbers[batch_idx])

        setattr(module, "training_step", training_step)  # noqa: B010 - a method, to mypy


def _values(loss: Tensor, terms: Mapping[str, Tensor]) -> Values:
    return {"loss": float(loss.sum()), **{name: float(t.sum()) for name, t in terms.items()}}


def _same(batch: Any) -> Any:
    return batch
