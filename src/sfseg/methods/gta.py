"""The client of Generalize then Adapt (Kundu et al., ICCV 2021): heads that train on themselves."""

from typing import Unpack

from sfseg.checks import require_weights
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.networks.heads.multi_head import LeaveOneOutSegmenter
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.ops.entropy import robust_entropy
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.ops.padding import of_pictures, valid_pixels
from sfseg.types import StepOutput, TrainingBatch


class GtA(Method):
    """All heads of a :class:`sfseg.methods.source_gta.SourceGtA` model learn its pseudo-labels.

    As in the rows of Uni-UVPT's tables: the backbone is frozen, pseudo-labels are the most
    confident third of each class, the loss is Lovasz-softmax and robust entropy. Of the paper, the
    choice of a head by its entropy on the target, the conditional autoencoder that refines its
    predictions, and the training of late layers of the backbone are left out, as they are there.

    Args:
        entropy_weight: of the robust entropy.
        **shared: see :class:`Shared`; the network must have leave-one-out heads.

    Raises:
        ConfigError: the network has only one head.
        ValueError: a negative weight.
    """

    def __init__(self, *, entropy_weight: float = 5e-3, **shared: Unpack[Shared]) -> None:
        super().__init__(**shared)
        require_weights(entropy_weight=entropy_weight)
        if not isinstance(self.network, LeaveOneOutSegmenter):
            raise ConfigError(
                "the network must have leave-one-out heads, got a plain "
                f"{type(self.network).__name__}; set method.source_adapter as in "
                "conf/method/gta.yaml"
            )
        self.entropy_weight = entropy_weight

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels; the loss is the heads' sum."""
        network, target = self.network, batch["target"]
        assert isinstance(network, LeaveOneOutSegmenter)
        valid = valid_pixels(target)
        with statistics_of_pictures(network, valid):
            logits = network.forward_heads(target["image"])
        losses = [
            lovasz_softmax(head, target["pseudo_label"])
            + self.entropy_weight * robust_entropy(of_pictures(head, valid))
            for head in logits
        ]
        terms = {f"head_{k}": loss for k, loss in enumerate(losses)}
        return self.output(terms, logits[-1].detach().float().softmax(dim=1))
