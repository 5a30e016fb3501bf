"""LD: positive and negative pseudo-labels without source data (You et al., ACM MM 2021)."""

from typing import Unpack

from torch import nn

from sfseg.checks import require_weights
from sfseg.methods.rounds import Rounds, SelfTraining
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.entropy import entropy
from sfseg.ops.losses import cross_entropy
from sfseg.ops.negative_learning import negative_learning, negative_rank
from sfseg.ops.padding import of_pictures
from sfseg.types import StepOutput, TrainingBatch

BATCH_NORM = nn.modules.batchnorm._BatchNorm


class LD(SelfTraining):
    """Sure pixels learn what they are, all pixels what they are not.

    What a pixel is not is a class about the middle of its ranking: plausible enough to teach, and
    hardly ever the truth. One rank is drawn for a step. The published code divides the learning
    rate by the root of 2 from round to round and begins its decay anew; here one schedule covers
    the run. The second stage, LDBE, which trains on mixed images with a teacher, is left out.

    Args:
        entropy_weight: of the mean entropy, in nats.
        negative_weight: of the negative learning.
        negative_width: ranks on each side of K / 2 that are drawn from, see
            :func:`sfseg.ops.negative_learning.negative_rank`.
        fixed_norms: keep batch normalisation of backbone and head as it is, weights and
            statistics, as the published code does.
        **arguments: see :class:`sfseg.methods.rounds.Rounds`.

    Raises:
        ValueError: a negative weight or width, or see :class:`SelfTraining`.
    """

    def __init__(
        self,
        *,
        entropy_weight: float = 1.0,
        negative_weight: float = 1.0,
        negative_width: int = 3,
        fixed_norms: bool = True,
        **arguments: Unpack[Rounds],
    ) -> None:
        super().__init__(**arguments)
        require_weights(
            entropy_weight=entropy_weight, negative_weight=negative_weight,
            negative_width=negative_width,
        )  # fmt: skip
        if fixed_norms and isinstance(self.network, Segmenter):
            norms = (m for m in self.network.modules() if isinstance(m, BATCH_NORM))
            self.network.freeze(*norms)
        self.entropy_weight = entropy_weight
        self.negative_weight, self.negative_width = negative_weight, negative_width

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        logits, valid = self.look(batch["target"])
        shown = of_pictures(logits, valid)
        terms = {"cross_entropy": cross_entropy(logits, batch["target"]["pseudo_label"])}
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * entropy(shown).mean()
        if self.negative_weight:
            rank = negative_rank(self.labels.num_classes, width=self.negative_width)
            terms["negative"] = self.negative_weight * negative_learning(shown, rank)
        return self.output(terms, logits.detach().float().softmax(dim=1))
