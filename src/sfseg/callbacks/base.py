"""What callbacks read of the module that is trained or evaluated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from lightning.pytorch import LightningModule

from sfseg.errors import ConfigError
from sfseg.metrics import Scored
from sfseg.ops.inference import Inference
from sfseg.types import Step


class Trained(Scored, Protocol):
    """A method, see :class:`sfseg.methods.base.Method`."""

    step: Step
    iteration: int
    shared: Mapping[str, Any]
    inference: Inference
    scales: Sequence[float]
    starts_as_source_model: bool

    def undo_step(self) -> Callable[[], None]: ...


SCORED = ("labels", "scores", "source_scores", "eval_domains", "protocol", "stage")
TRAINED = (
    *SCORED, "step", "iteration", "shared", "inference", "scales", "starts_as_source_model",
    "undo_step",
)  # fmt: skip


def scored(module: LightningModule) -> Scored:
    """The module as one that is evaluated.

    Raises:
        ConfigError: names what it lacks.
    """
    _require(module, SCORED, "sfseg.methods.evaluation.Evaluation")
    return cast(Scored, module)


def trained(module: LightningModule) -> Trained:
    """The module as a method.

    Raises:
        ConfigError: names what it lacks.
    """
    _require(module, TRAINED, "sfseg.methods.base.Method")
    return cast(Trained, module)


def is_adapting(module: LightningModule) -> bool:
    """Whether it is a method that trains on images of the target without their labels."""
    return not _missing(module, TRAINED) and "target" in trained(module).shared["needs"]


def _missing(module: LightningModule, names: Sequence[str]) -> list[str]:
    return [name for name in names if not hasattr(module, name)]


def _require(module: LightningModule, names: Sequence[str], base: str) -> None:
    if missing := _missing(module, names):
        raise ConfigError(
            f"{type(module).__name__} has no {', '.join(missing)}, which the callbacks read; "
            f"derive it from {base}"
        )
