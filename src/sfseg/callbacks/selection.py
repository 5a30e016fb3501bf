"""Which of a run's evaluated weights its tables show: the last, or the best by some score."""

import logging
import math
import shutil
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from sfseg.callbacks.base import Trained, is_adapting, scored, trained
from sfseg.callbacks.label_free_score import LabelFreeScore, target_miou
from sfseg.callbacks.order import Ordered
from sfseg.errors import ConfigError, OutputError
from sfseg.metrics import averaged
from sfseg.storage.atomic import write_whole
from sfseg.storage.checkpoint_files import CheckpointFiles, require_finite
from sfseg.storage.lightning_state import callbacks_of
from sfseg.storage.manifest import REMEMBERED

log = logging.getLogger(__name__)

Select = Literal["last", "label_free", "oracle"]
SELECTED, CANDIDATES = "selected.ckpt", "candidates"
LAST_STAGE = "last"
"""First part of the names that the last weights' scores are logged by where others may be shown."""


class Selection(Ordered):
    """Keeps the weights of the best evaluation, and shows them in the end.

    Candidates are the source model before the first step, if the network starts as that, every
    evaluation during training and the last weights. The best of them become ``selected.ckpt``,
    beside ``last.ckpt``; the first of equals wins. ``oracle`` asks the target's labels, which no
    source-free method has: such scores are an upper bound, and every table says so.

    Candidates hold weights only, for evaluation and prediction. Each is a file of its own, which
    stays until no checkpoint that a run could go on from refers to it.

    Args:
        folder: of the checkpoints.
        mode: ``last`` keeps nothing; ``label_free`` goes by :class:`LabelFreeScore`; ``oracle``
            by the target's mIoU, or the mean over evaluation sets.

    ``note`` says in words what the tables show; empty for ``last`` and before the end.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, folder: str, mode: Select = "last") -> None:
        if mode not in get_args(Select):
            raise ValueError(f"select must be one of {', '.join(get_args(Select))}, got {mode!r}")
        self.folder = Path(folder)
        self.mode = mode
        self.needs = (LabelFreeScore,) if mode == "label_free" else ()
        self.note = ""
        self.step: int | None = None
        self._value = math.nan
        self._seen = -1
        self._score: LabelFreeScore | None = None
        self._referred: deque[int] = deque(maxlen=REMEMBERED)

    def require(self, method: LightningModule) -> None:
        """Refuse a method that cannot be selected for.

        Raises:
            ConfigError: ``label_free`` for one that does not train on unlabelled target images.
        """
        if self.mode == "label_free" and not is_adapting(method):
            raise ConfigError(
                "select=label_free needs a method that trains on images of the target without "
                f"their labels, got {type(method).__name__}; set select=last"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.mode == "last":
            return
        if trainer.limit_val_batches == 0:
            raise ConfigError(
                f"select={self.mode} needs evaluations, but trainer.limit_val_batches=0; set "
                "select=last"
            )
        if self.mode == "label_free":
            self._score = self.needed(LabelFreeScore)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_off(trainer):
            return
        self._forget_lost(trainer)
        method = trained(pl_module)
        at_start = self._seen < 0 and trainer.global_step == 0
        if at_start and method.starts_as_source_model:
            self._consider(trainer, pl_module, target_miou(method, method.source_scores))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = scored(pl_module)
        in_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not self._is_off(trainer) and (in_training or module.stage == LAST_STAGE):
            self._consider(trainer, pl_module, target_miou(module, module.scores))

    def conclude(self, trainer: Trainer, method: LightningModule, data: Any) -> None:
        """Name the best weights ``selected.ckpt`` and put them into the method.

        Args:
            trainer: has trained the method.
            method: as it is after the last step; that must be saved by now.
            data: of the run, to evaluate the last weights where training did not end with that.
        """
        if self._is_off(trainer):
            return
        self._forget_lost(trainer)
        evaluated = trained(method)
        if self.step is None or self._seen != trainer.global_step:
            stage, evaluated.stage = evaluated.stage, LAST_STAGE
            trainer.validate(method, datamodule=data, verbose=False)
            evaluated.stage = stage
        assert self.step is not None, "the last weights are a candidate"
        selected = self.folder / SELECTED
        if trainer.is_global_zero:
            if (place := self._place(self.step)).exists():
                place.replace(selected)
            shutil.rmtree(self.folder / CANDIDATES, ignore_errors=True)
        trainer.strategy.barrier(SELECTED)
        if self.step != trainer.global_step:
            content = CheckpointFiles().load_checkpoint(selected)
            method.load_state_dict(content["state_dict"])
            for callback in _others(trainer):
                callback.on_load_checkpoint(trainer, method, content)
        self.note = self._text(evaluated)
        if trainer.is_global_zero:
            log.info("%s: %s", self.note, selected)

    def _is_off(self, trainer: Trainer) -> bool:
        return self.mode == "last" or bool(cast(Any, trainer).fast_dev_run)

    def _forget_lost(self, trainer: Trainer) -> None:
        """As in a new folder, which a checkpoint of another is continued in."""
        if self.step is None or trainer.strategy.broadcast(self._has_file()):
            return
        if trainer.is_global_zero:
            log.warning(
                "select=%s: the weights of step %d, the best so far, are not in %s; the best of "
                "what follows is selected",
                self.mode,
                self.step,
                self.folder,
            )
        self.step = None

    def _consider(self, trainer: Trainer, pl_module: LightningModule, miou: float) -> None:
        """Keep the weights as they are if they are better than all before."""
        step = self._seen = trainer.global_step
        value = miou if self._score is None else self._score.goodness(step)
        if math.isnan(value):
            reason = "the target's labels" if self._score is None else "a label-free score"
            raise ConfigError(
                f"select={self.mode} needs {reason} at every evaluation, and step {step} has "
                "none; set select=last"
            )
        if self.step is not None and value <= self._value:
            return
        self.step, self._value = step, value
        content = self._content(trainer, pl_module)
        if trainer.is_global_zero:
            self._write(content, self._place(step))
            for path in (self.folder / CANDIDATES).glob("step_*.ckpt"):
                if path not in [self._place(k) for k in (step, *self._referred)]:
                    path.unlink()

    def _content(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """A checkpoint of weights, with all that says what they are weights of."""
        content: dict[str, Any] = {
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": trainer.strategy.lightning_module_state_dict(),
            "iteration": trained(pl_module).iteration,
            "selection": self._text(trained(pl_module)),
        }
        for callback in _others(trainer):
            callback.on_save_checkpoint(trainer, pl_module, content)
        return content

    def _write(self, content: dict[str, Any], path: Path) -> None:
        require_finite(content["state_dict"])
        try:
            write_whole(path, lambda file: torch.save(content, file))
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its archive writer.
            raise OutputError(
                f"the weights of the best evaluation, {path}, cannot be written: {error}. Make "
                "room, then go on with resume=auto"
            ) from error

    def _text(self, method: Trained) -> str:
        whose = "the evaluation sets'" if averaged(method.eval_domains) else "the target's"
        by = (
            f"with {whose} labels (oracle)"
            if self._score is None
            else f"without labels ({self._score.score})"
        )
        return f"checkpoint selected {by}, step {self.step}"

    def _place(self, step: int) -> Path:
        return self.folder / CANDIDATES / f"step_{step:06d}.ckpt"

    def _has_file(self) -> bool:
        """Whether the best weights are there: as a candidate, or selected by now."""
        assert self.step is not None
        selected = self.folder / SELECTED
        if self._place(self.step).exists() or not selected.exists():
            return self._place(self.step).exists()
        return bool(CheckpointFiles().load_checkpoint(selected)["global_step"] == self.step)

    def state_dict(self) -> dict[str, Any]:
        if self.mode == "last" or self.step is None:
            return {}
        self._referred.append(self.step)
        return {"mode": self.mode, "step": self.step, "value": self._value, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["mode"] == self.mode:
            self.step, self._value = state_dict["step"], state_dict["value"]
            self._seen = state_dict["seen"]
            self._referred.append(state_dict["step"])


def _others(trainer: Trainer) -> list[Callback]:
    """Callbacks that add to a checkpoint, but for those that write the run's own."""
    return [callback for callback in callbacks_of(trainer) if not isinstance(callback, Checkpoint)]


def selection_of(callbacks: Iterable[Callback]) -> Selection | None:
    """The selection among some callbacks, where there is one."""
    return next((c for c in callbacks if isinstance(c, Selection)), None)
