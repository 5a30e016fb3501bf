"""URMA: uncertainty reduction for model adaptation (Sivaprasad and Fleuret, CVPR 2021)."""

from typing import Unpack

from sfseg.checks import require_weights
from sfseg.errors import ConfigError
from sfseg.methods.rounds import Rounds, SelfTraining
from sfseg.networks.heads.auxiliary_decoders import AuxiliarySegmenter
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.losses import cross_entropy
from sfseg.ops.padding import of_pictures, valid_pixels
from sfseg.ops.uncertainty import decoder_disagreement
from sfseg.types import StepOutput, TrainingBatch


class URMA(SelfTraining):
    """Features on which decoders agree that see them with channels dropped.

    Disagreement stands for the uncertainty of the model on the target. Auxiliary decoders start
    from random weights and learn from the main one, whose labels are chosen as in CBST. The
    diversity term of the published code, which its authors advise against, is left out.

    Args:
        entropy_weight: of the mean entropy, as a fraction of ln K.
        uncertainty_weight: of the disagreement; 0.1 in the published code.
        freeze_classifier: keep the source model's head as it is, as the paper means; false lets
            it train like the auxiliary decoders, as the published code does whatever its option
            says.
        **arguments: see :class:`sfseg.methods.rounds.Rounds`; the network must have auxiliary
            decoders.

    Raises:
        ConfigError: the network has none.
        ValueError: a negative weight, or see :class:`SelfTraining`.
    """

    def __init__(
        self,
        *,
        entropy_weight: float = 1.0,
        uncertainty_weight: float = 0.1,
        freeze_classifier: bool = True,
        **arguments: Unpack[Rounds],
    ) -> None:
        super().__init__(**arguments)
        require_weights(entropy_weight=entropy_weight, uncertainty_weight=uncertainty_weight)
        if not isinstance(self.network, AuxiliarySegmenter):
            raise ConfigError(
                "the network must have auxiliary decoders, got a plain "
                f"{type(self.network).__name__}; set method.adapter as in conf/method/urma.yaml"
            )
        if freeze_classifier:
            self.network.freeze("head")
        self.entropy_weight, self.uncertainty_weight = entropy_weight, uncertainty_weight

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        network, target = self.network, batch["target"]
        assert isinstance(network, AuxiliarySegmenter)
        valid = valid_pixels(target)
        with statistics_of_pictures(network, valid):
            logits, auxiliary = network.forward_auxiliary(target["image"])
        shown = of_pictures(logits, valid)
        others = [of_pictures(other, valid) for other in auxiliary]
        terms = {
            "cross_entropy": cross_entropy(logits, target["pseudo_label"]),
            "uncertainty": self.uncertainty_weight * decoder_disagreement(others, shown),
        }
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * normalized_entropy(shown).mean()
        return self.output(terms, logits.detach().float().softmax(dim=1))
