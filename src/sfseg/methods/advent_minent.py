"""ADVENT's direct part (Vu et al., CVPR 2019, arXiv:1811.12833): entropy beside a source loss."""

from typing import Unpack

from sfseg.checks import require_weights
from sfseg.methods.masked_consistency import MaskedConsistency, SharedMasked
from sfseg.methods.supervised import of_levels
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.padding import of_pictures
from sfseg.types import StepOutput, TrainingBatch


class AdventMinEnt(MaskedConsistency):
    """Cross-entropy on the source, and entropy of predictions on the target, "MinEnt".

    The source's labels keep the classes apart, so that everything may train, unlike with
    :class:`sfseg.methods.minent.MinEnt`.

    Args:
        entropy_weight: of the mean entropy, normalised to [0, 1], of the head's predictions.
        aux_entropy_weight: of the auxiliary head's, where there is one.
        **shared: see :class:`MaskedConsistency`.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self,
        *,
        entropy_weight: float = 0.001,
        aux_entropy_weight: float = 0.0002,
        **shared: Unpack[SharedMasked],
    ) -> None:
        super().__init__(**shared)
        require_weights(entropy_weight=entropy_weight, aux_entropy_weight=aux_entropy_weight)
        self.entropy_weights = (entropy_weight, aux_entropy_weight)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the source and unlabelled ones of the target."""
        source, target = self.look_at(batch["source"]), self.look_at(batch["target"])
        entropies = (
            normalized_entropy(of_pictures(logits, target.valid)).mean() for logits in target.levels
        )
        terms = self.cross_entropies(source, batch["source"]["label"])
        terms |= of_levels("entropy", entropies, self.entropy_weights)
        return {"loss": self.total(terms | self.masked_terms(batch))}
