"""Self-training in rounds: the network labels the target anew, surer of itself each time."""

import logging
from typing import Any, Protocol, Unpack, cast

from torch.utils.data import DataLoader

from sfseg.checks import require_weights, require_whole
from sfseg.methods.base import Method, Shared
from sfseg.methods.evaluation import Evaluation
from sfseg.methods.labeller import Labeller, Relabelled
from sfseg.methods.labelling import Selection, relabel
from sfseg.networks.segmenter import Segmenter
from sfseg.pseudo.reader import PseudoLabels

log = logging.getLogger(__name__)


class Labelled(Protocol):
    """What a self-training method asks of the DataModule."""

    pseudo_labels: PseudoLabels | None

    def labelling_dataloader(self) -> DataLoader[Any]: ...


def label_anew(method: Evaluation, labeller: Labeller) -> Relabelled | None:
    """Have a network, as it is now, label every training image of the target.

    All processes of a run call it between two batches, each with its share of the images; the next
    batch is the first to be served the new labels, and a checkpoint between both belongs to them.

    Args:
        method: in training; predicts by its own protocol, or as the labeller says.
        labeller: chooses the pixels that get a label.

    Returns:
        What they were made by, the same on all processes; None for a trainer without a DataModule,
        which has no labels that could be replaced.

    Raises:
        DataError: an image cannot be read, or the disk is full.
    """
    trainer = method.trainer
    data = cast("Labelled | None", getattr(trainer, "datamodule", None))
    if data is None:
        log.warning("pseudo-labels: there is no DataModule, whose labels would be replaced")
        return None
    context = trainer.precision_plugin.forward_context()
    made = relabel(method, data.labelling_dataloader, data.pseudo_labels, labeller, context=context)
    # The next step of any process reads what was written.
    trainer.strategy.barrier("pseudo-labels")
    return made


class Rounds(Shared):
    """Constructor arguments of every method that trains in rounds.

    selection: of the pixels that get a label in the first round; it is also how the source model
        has labelled them.
    rounds: of equal length; before each but the first, all images are labelled anew.
    steps: optimiser steps of all rounds.
    portion_step: by how much the selection's portion grows from round to round.
    portion_max: the largest portion.
    """

    selection: Selection
    rounds: int
    steps: int
    portion_step: float
    portion_max: float


class SelfTraining(Method):
    """Base of methods that learn labels of their own making, round after round.

    At the end of a round, after the step of its last batch, the network as it is then labels every
    training image of the target; the next batch is the first to be served these labels, and a
    checkpoint between both belongs to them. Nothing is kept of a round but its number, which
    follows from the iteration. A run with fewer steps than rounds leaves some out.

    An auxiliary head, which these methods do not need, is frozen.

    Args:
        **arguments: see :class:`Rounds`.

    Raises:
        ValueError: no round, a portion that shrinks, or a largest one below the first or above 1.
    """

    def __init__(self, **arguments: Unpack[Rounds]) -> None:
        own = Rounds.__annotations__.keys() - Shared.__annotations__.keys()
        shared = {name: value for name, value in arguments.items() if name not in own}
        super().__init__(**cast(Shared, shared))
        rounds, step = arguments["rounds"], arguments["portion_step"]
        first, largest = arguments["selection"].portion, arguments["portion_max"]
        require_whole(1, rounds=rounds)
        require_weights(portion_step=step)
        if not first <= largest <= 1:
            raise ValueError(
                f"portion_max must be at least the first round's portion, {first}, and at most 1, "
                f"got {largest}"
            )
        self.selection = arguments["selection"]
        self.rounds, self.steps = rounds, arguments["steps"]
        self.portion_step, self.portion_max = step, largest
        if isinstance(self.network, Segmenter) and self.network.aux_head is not None:
            self.network.freeze("aux_head")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        number = self._beginning_round()
        if number is not None:
            self._relabel(number)

    def _beginning_round(self) -> int | None:
        """The round, counted from 0, that begins with the next batch; None inside of rounds."""
        step, rest = divmod(self.iteration, self.trainer.accumulate_grad_batches)
        before, after = ((s * self.rounds) // self.steps for s in (step - 1, step))
        return after if rest == 0 and before < after < self.rounds else None

    def _relabel(self, number: int) -> None:
        grown = self.selection.grown(number * self.portion_step, largest=self.portion_max)
        made = label_anew(self, grown)
        if made is not None and self.trainer.is_global_zero:
            log.info("pseudo-labels: round %d of %d, %.1f %% of the pixels have one",
                     number + 1, self.rounds, 100 * made.share)  # fmt: skip
