"""TENT: fully test-time adaptation by entropy (Wang et al., ICLR 2021, arXiv:2006.10726)."""

from typing import Unpack, cast

from sfseg.methods.base import Method, Shared
from sfseg.networks.adapters.choices import norms_only
from sfseg.networks.batch_norm import require_moving_statistics, use_batch_statistics
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.entropy import entropy
from sfseg.ops.padding import of_pictures
from sfseg.types import StepOutput, TrainingBatch


class Tent(Method):
    """Entropy of predictions on the target trains weights and biases of normalisation layers.

    The paper adapts while it is tested, batch by batch, and has batch normalisation alone. This is
    the offline protocol that other methods are compared under: it adapts on the target's training
    images and is then evaluated as it is. Batch normalisation uses the statistics of the batch in
    training, as there; its running statistics follow the target meanwhile, and evaluation uses
    those. Transformers have layer or group normalisation, which trains in the same way and has no
    statistics of the domain. Dropout and stochastic depth, which the paper's networks do not have,
    are off.

    Args:
        **shared: see :class:`Shared`.

    Raises:
        ConfigError: the network has no normalisation layer, or its statistics are frozen.
    """

    def __init__(self, **shared: Unpack[Shared]) -> None:
        super().__init__(**shared)
        network = cast(Segmenter, self.network)
        require_moving_statistics(network, "tent")
        norms_only(network)
        if network.aux_head is not None:
            network.freeze("aux_head")

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on unlabelled images of the target."""
        use_batch_statistics(self.network)
        logits, valid = self.look(batch["target"])
        loss = entropy(of_pictures(logits, valid)).mean()
        return {"loss": self.total({"entropy": loss})}
