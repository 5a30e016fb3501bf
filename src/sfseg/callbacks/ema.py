"""Exponential moving average of the weights."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from sfseg.callbacks.base import trained
from sfseg.storage.lightning_state import count_as_averaged


class WeightAverage(EMAWeightAveraging):
    """Lightning's average, which a skipped step does not move.

    With ``update_every_n_steps``, the next step that is not skipped makes up for it.
    It takes the weights' place from ``on_validation_epoch_start`` to ``on_validation_epoch_end``,
    and for good when training ends. Callbacks that look at the weights that were evaluated do so at
    the end of the epoch and run before it, see :class:`sfseg.callbacks.order.Ordered`.

    Raises:
        ValueError: it would never be updated.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        every = settings.get("update_every_n_steps", 1)
        if every < 1:
            raise ValueError(
                f"update_every_n_steps must be at least 1, got {every}, which never averages; "
                "~callbacks.ema is off"
            )
        super().__init__(*arguments, **settings)
        self.is_in_place = False
        self._is_late = False
        self._trained: dict[str, Tensor] | None = None
        self._exact: dict[str, Tensor] = {}

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        is_late = step_idx is not None and self._is_late
        return is_late or bool(super().should_update(step_idx, epoch_idx))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._trained = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The average is copied over them; a checkpoint that is written then must hold them still.
        self._trained = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
        super().on_train_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trained(pl_module).step.is_skipped:
            self._is_late = self.should_update(trainer.global_step - 1)
            count_as_averaged(self, trainer.global_step)
            return
        before = self.state_dict()["latest_update_step"]
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._is_late = self._is_late and trainer.global_step == before

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._average_model is not None:
            # Weights of half precision take less of the average than it has to give back.
            mine, theirs = self._average_model.module.state_dict(), pl_module.state_dict()
            self._exact = {k: v.clone() for k, v in mine.items() if v.dtype != theirs[k].dtype}
        super().on_validation_epoch_start(trainer, pl_module)
        self.is_in_place = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        if self._average_model is not None:
            self._average_model.module.load_state_dict(self._exact, strict=False)
        self._exact, self.is_in_place = {}, False

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "is_late": self._is_late}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._is_late = bool(state_dict.get("is_late"))  # not in those of earlier versions

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        current = "current_model_state"
        if self.is_in_place and current in checkpoint:
            # Lightning does not know that both have changed places during an evaluation.
            checkpoint["state_dict"], checkpoint[current] = (
                checkpoint[current], checkpoint["state_dict"]
            )  # fmt: skip
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._exact}
        if self._trained is not None:
            checkpoint[current] = self._trained
