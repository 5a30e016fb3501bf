"""VPT + ELR, the baseline of Uni-UVPT's Table 1 (Ma et al., NeurIPS 2023).

Deep visual prompts (Jia et al., ECCV 2022) with early-learning regularisation (Liu et al., NeurIPS
2020).
"""

from typing import Literal, Unpack

from torch import Tensor

from sfseg.checks import require_options, require_weights
from sfseg.methods.base import Shared
from sfseg.methods.early_learning import EarlyLearningMethod
from sfseg.ops.entropy import robust_entropy
from sfseg.ops.losses import cross_entropy
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.ops.padding import of_pictures
from sfseg.types import StepOutput, TrainingBatch

Loss = Literal["cross_entropy", "lovasz"]
LOSSES = {"cross_entropy": cross_entropy, "lovasz": lovasz_softmax}


class VPTELR(EarlyLearningMethod):
    """Prompts and head learn fixed pseudo-labels and are held to their own earlier predictions.

    Early in training a network predicts the right class of many pixels that are labelled wrongly;
    the regulariser keeps it from learning these labels by heart later.

    Uni-UVPT reports this baseline without its settings, and its published code has neither part.
    The 256 prompts of each block follow from the number of parameters in its table. Cross-entropy
    as in ELR, its weight and momentum, and the rates are the choice of this library.

    Args:
        loss: of the pseudo-labels; ``lovasz`` is that of Uni-UVPT's own method.
        entropy_weight: of the robust entropy, which that method has beside it; 0 leaves it out.
        elr_weight: see :class:`EarlyLearningMethod`; 0 leaves the regulariser out.
        elr_momentum: likewise.
        **shared: see :class:`Shared`; the adapter puts prompts into the network, see
            :func:`sfseg.networks.adapters.visual_prompts.with_visual_prompts`.

    Raises:
        ValueError: an unknown loss, negative weights, or a momentum outside [0, 1).
    """

    elr_setting = "a positive method.elr_weight"
    starts_as_source_model = False  # new prompts change what the network predicts

    def __init__(
        self,
        *,
        loss: Loss = "cross_entropy",
        entropy_weight: float = 0.0,
        elr_weight: float = 3.0,
        elr_momentum: float = 0.7,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            elr_weight=elr_weight,
            elr_momentum=elr_momentum,
            is_regularized=elr_weight > 0,
            **shared,
        )
        require_options(loss=(loss, Loss))
        require_weights(entropy_weight=entropy_weight)
        self.loss: Loss = loss
        self.entropy_weight = entropy_weight

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        target = batch["target"]
        scores, valid = self.look(target)
        logits = scores.float()
        loss = LOSSES[self.loss](logits, target["pseudo_label"])
        terms: dict[str, Tensor] = {self.loss: loss}
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * robust_entropy(of_pictures(logits, valid))
        if self.is_regularized:
            terms["elr"] = self.early_learning(target, logits, valid)
        return self.output(terms, logits.detach().float().softmax(dim=1))
