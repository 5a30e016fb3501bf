"""Supervised training on one domain: the source model that adaptation starts from."""

from typing import Literal, Unpack

from sfseg.checks import require_options
from sfseg.methods.mask_classification import has_mask_head, mask_sums, require_mask_head
from sfseg.methods.supervised import SharedSupervised, Supervised
from sfseg.types import StepOutput, TrainingBatch

Domain = Literal["source", "target"]


class SourceOnly(Supervised):
    """Cross-entropy on the labels of one domain, no adaptation.

    On the source it is the lower bound of every table; on the target's own labels it is the
    oracle, the upper bound. A head that predicts masks is trained by its own loss.

    Args:
        domain: which domain's labelled images to train on.
        **shared: see :class:`sfseg.methods.supervised.Supervised`.
    """

    def __init__(self, *, domain: Domain = "source", **shared: Unpack[SharedSupervised]) -> None:
        super().__init__(**shared)
        require_options(domain=(domain, Domain))
        self.domain = domain

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the domain."""
        images = batch[self.domain]
        if has_mask_head(self.network):
            head = require_mask_head(self.network, "source_only")
            sums = mask_sums(self.network, images, images["label"])
            return {"loss": self.total(head.criterion.terms(sums))}
        terms = self.cross_entropies(self.look_at(images), images["label"])
        return {"loss": self.total(terms)}
