"""Supervised training on one domain: the source model that adaptation starts from."""

from typing import Literal, Unpack, cast

from torch import Tensor

from sfseg.checks import require_options, require_weights
from sfseg.methods.base import Method, Shared
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import Normalize, cross_entropy
from sfseg.ops.padding import of_pictures, valid_pixels
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
        if not self.aux_weight:
            logits, valid = self.look(images)
            loss = self._cross_entropy(logits, images["label"], valid)
            return {"loss": self.total({"cross_entropy": loss})}
        network, valid = cast(Segmenter, self.network), valid_pixels(images)
        with statistics_of_pictures(network, valid):
            main, aux = network.forward_levels(images["image"])
        main_loss, aux_loss = (
            self._cross_entropy(scores, images["label"], valid) for scores in (main, aux)
        )
        terms = {"cross_entropy": main_loss, "auxiliary": self.aux_weight * aux_loss}
        return {"loss": self.total(terms)}

    def _cross_entropy(self, logits: Tensor, label: Tensor, valid: Tensor | None) -> Tensor:
        if self.normalize == "all":  # padding has no label, but would count among them
            logits, label = of_pictures(logits, valid), of_pictures(label, valid)
        return cross_entropy(logits, label, normalize=self.normalize)
