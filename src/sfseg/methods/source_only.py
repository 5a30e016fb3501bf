"""Supervised training on one domain: the source model that adaptation starts from."""

from typing import Literal, Unpack

from sfseg.methods.base import Method, Shared
from sfseg.ops.losses import Normalize, cross_entropy
from sfseg.types import StepOutput, TrainingBatch


class SourceOnly(Method):
    """Cross-entropy on the labels of one domain, no adaptation.

    On the source it is the lower bound of every table; on the target's own labels it is the
    oracle, the upper bound.

    Args:
        domain: which domain's labelled images to train on.
        normalize: see :func:`sfseg.ops.losses.cross_entropy`.
        **shared: see :class:`Shared`.
    """

    def __init__(
        self,
        *,
        domain: Literal["source", "target"] = "source",
        normalize: Normalize = "valid",
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        if domain not in ("source", "target"):
            raise ValueError(f"domain must be 'source' or 'target', got {domain!r}")
        if normalize not in ("valid", "all"):
            raise ValueError(f"normalize must be 'valid' or 'all', got {normalize!r}")
        self.domain = domain
        self.normalize: Normalize = normalize

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the domain."""
        images = batch[self.domain]
        loss = cross_entropy(self(images["image"]), images["label"], normalize=self.normalize)
        return {"loss": loss}
