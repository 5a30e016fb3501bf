"""CBST (Zou et al., ECCV 2018) and CRST (Zou et al., ICCV 2019) without the source."""

from typing import Unpack

from sfseg.checks import require_weights
from sfseg.methods.rounds import Rounds, SelfTraining
from sfseg.ops.confidence_regularization import uniform_divergence
from sfseg.ops.losses import cross_entropy
from sfseg.types import StepOutput, TrainingBatch


class CBST(SelfTraining):
    """Rounds of cross-entropy on the most confident labels, with a threshold for each class.

    A class's own threshold keeps frequent, easy classes from being all that is learnt. Source-free:
    the share of source images that the papers mix in is absent. Left out too are the choice of
    crops around rare classes (patch mining), the spatial priors of CBST-SP, the soft labels of
    CRST-LRENT, and the scale of 0.9 at which the published code labels (``evaluation.scales``).

    Args:
        mrkld_weight: of the model regulariser of CRST-MRKLD; 0.1 in its code, 0 is CBST.
        **arguments: see :class:`sfseg.methods.rounds.Rounds`.

    Raises:
        ValueError: a negative weight, or see :class:`SelfTraining`.
    """

    def __init__(self, *, mrkld_weight: float = 0.0, **arguments: Unpack[Rounds]) -> None:
        super().__init__(**arguments)
        require_weights(mrkld_weight=mrkld_weight)
        self.mrkld_weight = mrkld_weight

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        label = batch["target"]["pseudo_label"]  # IGNORE in padding
        logits, _ = self.look(batch["target"])
        terms = {"cross_entropy": cross_entropy(logits, label)}
        if self.mrkld_weight:
            terms["mrkld"] = self.mrkld_weight * uniform_divergence(logits, label)
        return self.output(terms, logits.detach().float().softmax(dim=1))
