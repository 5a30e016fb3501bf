"""UPLR (Wang, Peng and Zhang, ICCV 2021): more of uncertain classes, labels of certain pixels."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from sfseg.checks import require_at_least, require_weights, require_whole
from sfseg.errors import ConfigError
from sfseg.methods.adaptsegnet import AdaptSegNet, Adversarial
from sfseg.methods.certainty import TwoModes
from sfseg.methods.labeller import Labeller
from sfseg.methods.rounds import label_anew
from sfseg.methods.supervised import Look
from sfseg.modes import evaluating
from sfseg.ops.class_entropy import (
    add_class_entropy,
    by_uncertainty,
    empty_class_entropy,
    mean_class_entropy,
)
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.inference import most_likely
from sfseg.ops.processes import in_step, sum_of_processes
from sfseg.ops.two_gaussians import Modes
from sfseg.types import TrainingBatch

log = logging.getLogger(__name__)


class Focusing(Protocol):
    """What the method asks of the DataModule, which takes the first ``k`` classes of a ranking."""

    follows_focus: bool

    def labelling_dataloader(self) -> DataLoader[Any]: ...

    def focus(self, classes: Sequence[int]) -> None: ...


class Certain(NamedTuple):
    """The modes of each class that labels were made by; see :class:`TwoModes`.

    number: of the round, from 1.
    histogram: (K, bins) pixels of each entropy, of the whole set.
    modes: fitted to that.
    threshold: (K,) entropy up to which a pixel is certain.
    """

    number: int
    histogram: Tensor
    modes: Modes
    threshold: Tensor


class UPLR(AdaptSegNet):
    """Stages of adversarial alignment, then rounds of self-training; all parts of equal length.

    The ladder of the paper's ablation (Table 3): AA is the alignment of :class:`AdaptSegNet`; IT
    shows the source translated (``data/translation``, ``data.translated``); SR draws source images
    by their classes (``data/sampler=soft_balance``); TGAA, ``k``, lets those classes alone count
    whose predictions on the target are uncertain, measured anew before every part but the first;
    UPST, ``rounds``, adds pixels of the target that the model is certain of, labelled anew before
    every round.

    There is no public code, and the paper gives neither the numbers of stages and rounds, k, nor
    how long they are: all are guessed. A round goes on from the weights that it finds.

    Args:
        stages: of alignment; 0 begins with a round, from the weights of a network aligned before.
        rounds: of self-training; 0 is the paper's "Ours (AA)".
        k: uncertain classes that count, as ``data.sampler.k`` says too; None: all, always.
        steps: of all parts together; fewer than there are parts leave some out.
        pseudo_label: chooses the pixels that get a label, such as :class:`TwoModes`.
        target_weight: of the cross-entropy on them.
        **adversarial: see :class:`AdaptSegNet`.

    Raises:
        ValueError: no part, no step, or k beyond the classes.
    """

    def __init__(
        self,
        *,
        steps: int,
        pseudo_label: Labeller,
        stages: int = 3,
        rounds: int = 2,
        k: int | None = 5,
        target_weight: float = 1.0,
        **adversarial: Unpack[Adversarial],
    ) -> None:
        super().__init__(**adversarial)
        require_whole(0, stages=stages, rounds=rounds)
        require_at_least(1, **{"stages + rounds": stages + rounds})
        require_at_least(1, steps=steps)
        require_weights(target_weight=target_weight)
        if k is not None and not 1 <= k <= self.labels.num_classes:
            raise ValueError(f"k must be from 1 to the {self.labels.num_classes} classes, got {k}")
        self.stages, self.parts, self.k, self.steps = stages, stages + rounds, k, steps
        self.pseudo_label, self.target_weight = pseudo_label, target_weight
        self.labelling: Certain | None = None

    def segmenter_terms(
        self, batch: TrainingBatch, source: Look, target: Look
    ) -> dict[str, Tensor]:
        """Those of the alignment; in rounds also the cross-entropy on pseudo-labels."""
        terms = super().segmenter_terms(batch, source, target)
        if self._part(self.iteration - 1) >= self.stages:
            labelled = self.cross_entropies(target, batch["target"]["pseudo_label"])
            terms |= {f"target_{name}": self.target_weight * t for name, t in labelled.items()}
        return terms

    def require_data(self, data: Any) -> None:
        """See :meth:`Method.require_data`: ``k`` needs a sampler that prefers classes."""
        if self.k is not None and not cast(Focusing, data).follows_focus:
            raise ConfigError(
                f"method.k={self.k} needs a sampler of the source that prefers classes; choose "
                "data/sampler=soft_balance, or set method.k=null"
            )

    def on_train_start(self) -> None:
        super().on_train_start()
        first = self._part(0)
        if self.iteration == 0 and (first > 0 or self.stages == 0):
            self._begin(first)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        part = self._part(self.iteration)
        if self._part(self.iteration - 1) < part < self.parts:
            self._begin(part)

    def _part(self, batches: int) -> int:
        """The part, from 0, of the batch that comes after so many."""
        ends = (k * self.steps // self.parts for k in range(1, self.parts + 1))
        return sum(batches >= end for end in ends)

    def _begin(self, part: int) -> None:
        """What the coming part needs to know of the target."""
        data = cast("Focusing | None", getattr(self.trainer, "datamodule", None))
        if data is None:
            log.warning("uplr: there is no DataModule, whose labels and classes would be set")
            return
        if self.k is not None:
            entropy = self.class_entropy(data)
            ranked = by_uncertainty(entropy)
            named = (f"{self.labels.classes[c]} {entropy[c]:.3f}" for c in ranked)
            self._say("entropy of each class before part %d of %d: %s",
                      part + 1, self.parts, ", ".join(named))  # fmt: skip
            data.focus(ranked)
        if part >= self.stages:
            self._label(part - self.stages + 1)

    def _label(self, number: int) -> None:
        made = label_anew(self, self.pseudo_label)
        if made is None:
            return
        self._say("pseudo-labels: round %d of %d, %.1f %% of the pixels have one",
                  number, self.parts - self.stages, 100 * made.share)  # fmt: skip
        if isinstance(self.pseudo_label, TwoModes):
            assert made.histogram is not None and made.threshold is not None, "it leaves some out"
            modes = self.pseudo_label.modes(made.histogram)
            self.labelling = Certain(number, made.histogram, modes, made.threshold)

    @torch.no_grad()
    def class_entropy(self, data: Focusing) -> Float[Tensor, " K"]:
        """Mean normalised entropy of the pixels that each class is predicted for on the target.

        All processes call it, each sees its share of the images; see
        :func:`sfseg.ops.class_entropy.mean_class_entropy`.
        """
        sums = empty_class_entropy(self.labels.num_classes, device=self.device)
        with evaluating(self), self.trainer.precision_plugin.forward_context():
            for batch in filter(None, in_step(data.labelling_dataloader(), self.device)):
                logits = self.inference(self, batch["image"].to(self.device))
                add_class_entropy(sums, normalized_entropy(logits), most_likely(logits))
        return mean_class_entropy(sum_of_processes(sums)).cpu()

    def _say(self, text: str, *values: object) -> None:
        """One line in the log of a run, however many processes it has."""
        if self.trainer.is_global_zero:
            log.info(text, *values)
