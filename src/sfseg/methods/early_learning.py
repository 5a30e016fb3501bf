"""Early-learning regularisation (ELR; Liu et al., NeurIPS 2020) as a part of methods."""

from collections.abc import Callable
from typing import Any, ClassVar, Unpack

from torch import Tensor

from sfseg.checks import require_weights
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.ops.elr import TemporalEnsemble, elr_regularizer
from sfseg.ops.padding import of_pictures
from sfseg.ops.processes import of_each_process
from sfseg.types import Batch


class EarlyLearningMethod(Method):
    """A method whose loss can hold predictions to running means of earlier ones.

    The means are kept in checkpoints, shared by all processes and taken back with a skipped step.

    Args:
        elr_weight: of the regulariser. It and the momentum are the choice of this library:
            Uni-UVPT, in whose tables ELR appears, names the option in its code and has none of it.
        elr_momentum: of the running means.
        is_regularized: whether the method uses the regulariser at all.
        **shared: see :class:`Shared`.

    Raises:
        ValueError: a negative weight, or a momentum outside [0, 1).
    """

    elr_setting: ClassVar[str]
    """What turns the regulariser on, for messages."""

    def __init__(
        self,
        *,
        elr_weight: float,
        elr_momentum: float,
        is_regularized: bool,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_weights(elr_weight=elr_weight)
        self.elr_weight = elr_weight
        self.is_regularized = is_regularized
        self.ensemble = TemporalEnsemble(elr_momentum)

    def early_learning(self, target: Batch, logits: Tensor, valid: Tensor | None) -> Tensor:
        """The weighted regulariser, with means that this step has already moved.

        Args:
            target: images of the target.
            logits: of them.
            valid: which of their pixels belong to pictures, see :meth:`Method.look`.
        """
        seen = (target["index"], target["geometry"], logits.detach().float().softmax(dim=1))
        # An image may come to another process in the next pass.
        for index, geometry, probability in zip(*map(of_each_process, seen), strict=True):
            self.ensemble.update(index, geometry, probability)
        kept = self.ensemble.read(target["index"], target["geometry"], logits)
        return self.elr_weight * elr_regularizer(
            of_pictures(logits, valid), of_pictures(kept, valid)
        )

    def undo_step(self) -> Callable[[], None]:
        before = self.ensemble.state_dict()
        return lambda: self.ensemble.load_state_dict(before)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.is_regularized:
            checkpoint["ensemble"] = self.ensemble.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if not self.is_regularized:
            return
        if "ensemble" not in checkpoint:
            raise ConfigError(
                f"the checkpoint is of a run without {self.elr_setting}, which cannot go on with "
                "it; continue it with the settings it had, or start anew"
            )
        self.ensemble.load_state_dict(checkpoint["ensemble"])
