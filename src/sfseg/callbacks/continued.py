"""A run that goes on from another one's checkpoint, with settings of its own."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from sfseg.optim import pairs_of, take_settings

log = logging.getLogger(__name__)


class Continued(Callback):
    """Gives the optimisers and schedules of a checkpoint this run's settings, and says which.

    Lightning restores them with the rates and decays that they had. Moments and the position in
    the schedule stay.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedules = {id(c.scheduler.optimizer): c.scheduler for c in trainer.lr_scheduler_configs}
        fresh = pairs_of(pl_module.configure_optimizers())
        for optimizer, wanted in zip(trainer.optimizers, fresh, strict=True):
            differ = take_settings((optimizer, schedules.get(id(optimizer))), wanted)
            if differ and trainer.is_global_zero:
                log.info(
                    "ckpt_path: the optimiser goes on with this run's settings: %s",
                    ", ".join(
                        f"{name} {_short(a)} -> {_short(b)}" for name, (a, b) in differ.items()
                    ),
                )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
