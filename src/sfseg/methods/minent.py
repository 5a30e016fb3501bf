"""MinEnt (Vu et al., ADVENT, CVPR 2019, arXiv:1811.12833), without the source."""

from typing import Unpack, cast

from sfseg.checks import require_positive
from sfseg.methods.base import Method, Shared
from sfseg.networks.adapters.choices import Part, train_only
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.padding import of_pictures
from sfseg.types import StepOutput, TrainingBatch


class MinEnt(Method):
    """Sharpens predictions on the target by minimising their entropy, normalised to [0, 1].

    The paper adds 0.001 times this loss to the cross-entropy on the source, which keeps classes
    apart. Without that term, entropy is least where everything is one class, and weights that are
    free to go there do. So only normalisation layers train here; a backbone behind the head of the
    source loses rare classes too, only more slowly, and needs a learning rate of 5e-5 or less. The
    paper's second term, on an auxiliary head, is left out.

    Args:
        weight: of the loss; optimisers such as AdamW hardly notice it, since it is the only one.
        trainable: ``norms``, ``backbone`` or ``all``, see above.
        **shared: see :class:`Shared`.

    Raises:
        ValueError: an unknown part, or a weight that is not positive.
        ConfigError: ``norms`` of a network that has none.
    """

    def __init__(
        self, *, weight: float = 1.0, trainable: Part = "norms", **shared: Unpack[Shared]
    ) -> None:
        super().__init__(**shared)
        require_positive(weight=weight)
        self.weight = weight
        train_only(cast(Segmenter, self.network), trainable)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on unlabelled images of the target."""
        logits, valid = self.look(batch["target"])
        entropy = normalized_entropy(of_pictures(logits, valid)).mean()
        return {"loss": self.total({"entropy": self.weight * entropy})}
