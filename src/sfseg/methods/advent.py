"""ADVENT's adversarial part (Vu et al., CVPR 2019, arXiv:1811.12833): domains alike in entropy."""

from torch import Tensor

from sfseg.methods.adaptsegnet import AdaptSegNet
from sfseg.ops.patches import prediction_map


class Advent(AdaptSegNet):
    """AdaptSegNet whose discriminators see how uncertain a prediction is, "AdvEnt".

    They see weighted self-information, -p ln p of each class, here over ln K, whose sum over the
    classes is the entropy. The paper's best row averages this model with one of
    :class:`sfseg.methods.advent_minent.AdventMinEnt`.
    """

    def seen(self, logits: Tensor) -> Tensor:
        """What discriminators see of logits (B, K, H, W): weighted self-information in [0, 1]."""
        return prediction_map(logits.float(), "self_information")
