"""MaxSquare (Chen, Xue and Cai, ICCV 2019, arXiv:1909.13589), without the source."""

from typing import Unpack, cast

import torch
from torch import Tensor

from sfseg.checks import require_options, require_positive, require_shares
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.networks.adapters.choices import Part, train_only
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import cross_entropy
from sfseg.ops.max_square import (
    Norm,
    guided_label,
    image_weighted_max_square,
    max_square,
)
from sfseg.ops.padding import each_picture, of_pictures, valid_pixels
from sfseg.types import StepOutput, TrainingBatch


class MaxSquare(Method):
    """Sharpens predictions on the target by maximising the squares of their probabilities.

    The gradient of entropy is dominated by pixels that are nearly certain; the square's grows in
    proportion to a probability. The paper adds this to the cross-entropy on the source. Without
    that term predictions drift to few classes, as under MinEnt, so that only normalisation layers
    train by default.

    Args:
        weight: of the loss, lambda_T: 0.1 in the authors' commands, 0.09 with ``multi_level``.
        norm: see :data:`sfseg.ops.max_square.Norm`.
        image_weighting: favour classes of which an image shows little, "IW".
        ratio: see :func:`sfseg.ops.max_square.image_weights`.
        multi_level: an auxiliary head learns from the mean prediction of both, "Multi".
        delta: a pixel counts there where either head is surer than that; 0.98 for Cross-City.
        guidance_weight: of that cross-entropy, times ``weight``.
        trainable: see :class:`sfseg.methods.minent.MinEnt`.
        **shared: see :class:`Shared`.

    Raises:
        ValueError: an unknown norm or part, weights that are not positive, ``ratio`` or ``delta``
            outside [0, 1].
        ConfigError: ``multi_level`` without an auxiliary head.
    """

    def __init__(
        self,
        *,
        weight: float = 0.1,
        norm: Norm = "code",
        image_weighting: bool = False,
        ratio: float = 0.2,
        multi_level: bool = False,
        delta: float = 0.95,
        guidance_weight: float = 0.1,
        trainable: Part = "norms",
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_options(norm=(norm, Norm))
        require_shares(ratio=ratio, delta=delta)
        require_positive(weight=weight, guidance_weight=guidance_weight)
        network = cast(Segmenter, self.network)
        if multi_level and network.aux_head is None:
            raise ConfigError(
                "backbone.aux must be a head for multi_level, got null; choose "
                "backbone=resnet101_deeplabv2_multi, set backbone.aux, or method.multi_level=false"
            )
        train_only(network, trainable, levels=multi_level)
        self.weight, self.guidance_weight = weight, guidance_weight
        self.norm: Norm = norm
        self.image_weighting, self.ratio = image_weighting, ratio
        self.multi_level, self.delta = multi_level, delta

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on unlabelled images of the target."""
        target = batch["target"]
        if not self.multi_level:
            return {"loss": self.total({"max_square": self._max_square(*self.look(target))})}
        network, valid = cast(Segmenter, self.network), valid_pixels(target)
        with statistics_of_pictures(network, valid):
            main, aux = network.forward_levels(target["image"])
        both = of_pictures(main, valid), of_pictures(aux, valid)
        guidance = cross_entropy(both[1], guided_label(*both, delta=self.delta))
        terms = {
            "max_square": self._max_square(main, valid),
            "guidance": self.weight * self.guidance_weight * guidance,
        }
        return {"loss": self.total(terms)}

    def _max_square(self, logits: Tensor, valid: Tensor | None) -> Tensor:
        if not self.image_weighting:
            return self.weight * max_square(of_pictures(logits, valid), norm=self.norm)
        losses = [
            image_weighted_max_square(own, ratio=self.ratio, norm=self.norm)
            for own in each_picture(logits, valid)
        ]
        return self.weight * torch.stack(losses).mean()
