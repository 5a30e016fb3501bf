"""The processes of one run: how they meet before training, and what it means to lose one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sfseg.errors import ConfigError, LostProcessError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def meet(trainer: "Trainer") -> None:
    """Start the other processes of a run, if the trainer is to do that, and join them.

    Lightning does so when it trains or evaluates. A run has a source model to find or train before,
    and labels to make: from here on its processes can speak to each other, and its trainers take
    them as they are.

    Raises:
        ConfigError: the strategy has processes for the time of a call alone.
    """
    launcher = trainer.strategy.launcher
    if launcher is None:
        return
    if not hasattr(launcher, "cluster_environment"):
        raise ConfigError(
            "trainer.strategy must not be one that spawns or forks its processes for each call, "
            f"got {type(trainer.strategy).__name__} by {type(launcher).__name__}; take ddp"
        )
    launcher.launch(trainer.strategy.setup_environment)


@contextmanager
def lost_processes(trainer: "Trainer") -> Iterator[None]:
    """Say what it means that the other processes of a run do not answer.

    Raises:
        LostProcessError: with the way out.
    """
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, DistError) or "gloo" in str(error)
        if trainer.world_size == 1 or not is_lost:
            raise
        raise LostProcessError(
            f"process {trainer.global_rank} of {trainer.world_size} waits in vain for another, "
            "which has ended or hangs (its own output says why); the same command with resume=auto "
            f"goes on from the last checkpoint: {error}"
        ) from error
