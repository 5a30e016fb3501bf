"""FDA (Yang and Soatto, CVPR 2020, arXiv:2004.05498): the source in the target's colours."""

from typing import Unpack

from sfseg.checks import require_positive, require_weights
from sfseg.methods.supervised import SharedSupervised, Supervised
from sfseg.ops.entropy import robust_entropy
from sfseg.ops.padding import of_pictures
from sfseg.types import StepOutput, TrainingBatch


class FDA(Supervised):
    """Cross-entropy on the translated source, and a robust entropy of predictions on the target.

    The data translates: low frequencies of each source image take the target's amplitudes. The
    entropy is over ln K and at the images' size; the authors' code takes it at the logits', an
    eighth. Left out are the mean of three models of different bands (0.01, 0.05, 0.09), "MBT", and
    training in rounds on its pseudo-labels.

    Args:
        entropy_weight: lambda_ent.
        exponent: eta, see :func:`sfseg.ops.entropy.robust_entropy`.
        **shared: see :class:`sfseg.methods.supervised.Supervised`.

    Raises:
        ValueError: a negative weight, or an exponent that is not positive.
    """

    def __init__(
        self,
        *,
        entropy_weight: float = 0.005,
        exponent: float = 2.0,
        **shared: Unpack[SharedSupervised],
    ) -> None:
        super().__init__(**shared)
        require_weights(entropy_weight=entropy_weight)
        require_positive(exponent=exponent)
        self.entropy_weight, self.exponent = entropy_weight, exponent

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the source and unlabelled ones of the target."""
        source, target = self.look_at(batch["source"]), self.look_at(batch["target"])
        logits = of_pictures(target.levels[0], target.valid)
        terms = self.cross_entropies(source, batch["source"]["label"])
        terms["entropy"] = self.entropy_weight * robust_entropy(logits, exponent=self.exponent)
        return {"loss": self.total(terms)}
