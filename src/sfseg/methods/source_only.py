"""Supervised training on one domain: the source model that adaptation starts from."""

from typing import Literal, Unpack, cast

from sfseg.checks import require_options, require_weights
from sfseg.methods.base import Method, Shared
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import Normalize, cross_entropy
from sfseg.types import StepOutput, TrainingBatch

Domain = Literal["source", "target"]


class SourceOnly(Method):
    """Cross-entropy on the labels of one domain, no adaptation.

    On the source it is the lower bound of every table; on the target's own labels it is the
    oracle, the upper bound.

    Args:
        domain: which domain's labelled images to train on.
        normalize: see :func:`sfseg.ops.losses.cross_entropy`.
        aux_weight: weight of the same loss on the network's auxiliary head; 0.1 in AdaptSegNet.
        **shared: see :class:`Shared`.
    """

    def __init__(
        self,
        *,
        domain: Domain = "source",
        normalize: Normalize = "valid",
        aux_weight: float = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_options(domain=(domain, Domain), normalize=(normalize, Normalize))
        require_weights(aux_weight=aux_weight)
        if bool(aux_weight) != (getattr(self.network, "aux_head", None) is not None):
            raise ValueError(
                f"aux_weight must be positive where the network has an auxiliary head and 0 where "
                f"it has none, got {aux_weight}; set method.aux_weight or backbone.aux"
            )
        self.aux_weight = aux_weight
        self.domain = domain
        self.normalize: Normalize = normalize

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the domain."""
        images = batch[self.domain]
        image, label = images["image"], images["label"]
        if not self.aux_weight:
            loss = cross_entropy(self(image), label, normalize=self.normalize)
            return {"loss": self.total({"cross_entropy": loss})}
        main, aux = cast(Segmenter, self.network).forward_levels(image)
        main_loss = cross_entropy(main, label, normalize=self.normalize)
        aux_loss = cross_entropy(aux, label, normalize=self.normalize)
        terms = {"cross_entropy": main_loss, "auxiliary": self.aux_weight * aux_loss}
        return {"loss": self.total(terms)}
