"""Batch normalisation with statistics of the target (AdaBN, arXiv:1603.04779; UBNA).

UBNA is Klingner et al., WACV workshops 2022, arXiv:2011.08502.
"""

import math
from typing import Unpack, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.networks.batch_norm import reestimate, require_moving_statistics, tracking_norms
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.padding import of_pictures, valid_pixels
from sfseg.types import StepOutput, TrainingBatch


class BNAdapt(Method):
    """Re-estimates the running statistics of batch normalisation on the target; nothing trains.

    Batch k = 0, 1, ... moves them by momentum * exp(-decay * k) towards its own. With a decay some
    of the source's remain, as UBNA wants it: 27% of them with its values. With ``momentum=null``
    they are the mean of all batches', and nothing of the source's, as in AdaBN. UBNA changes
    statistics of the encoder alone; here those of the head follow too. Of UBNA+, which changes
    deeper layers less, nothing is here.

    What is logged as loss is the normalised entropy of the predictions.

    Args:
        momentum: in (0, 1], of the first batch; None: 1 / (k + 1).
        decay: of the momentum, per batch; 0 for none.
        **shared: see :class:`Shared`; what it says of an optimiser has no effect.

    Raises:
        ValueError: momentum or decay outside their range, or a decay without momentum.
        ConfigError: the network has no batch normalisation, or its statistics are frozen.
    """

    batches: Tensor

    def __init__(
        self, *, momentum: float | None = 0.1, decay: float = 0.08, **shared: Unpack[Shared]
    ) -> None:
        super().__init__(**shared)
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1] or null, got {momentum}")
        if decay < 0 or (decay and momentum is None):
            raise ValueError(
                f"decay must not be negative, and 0 for momentum=null, which is the mean of all "
                f"batches, got {decay}"
            )
        network = cast(Segmenter, self.network)
        require_moving_statistics(network, "bn_adapt")
        if not tracking_norms(network):
            raise ConfigError(
                "the network must have batch normalisation for bn_adapt, got none in "
                f"{type(network.backbone).__name__} and {type(network.head).__name__}; choose "
                "a backbone such as resnet50, a head such as daformer, or method=tent, which "
                "adapts layer and group normalisation too"
            )
        network.requires_grad_(False)
        self.momentum, self.decay = momentum, decay
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        # Lightning counts steps of an optimiser, and parallel training needs a gradient: of this
        # number, which is 0 and stays so.
        self.clock = nn.Parameter(torch.zeros(()))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.SGD([self.clock], lr=0.0)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One batch of unlabelled images of the target."""
        momentum = self.momentum_of(int(self.batches))
        network, target = cast(Segmenter, self.network), batch["target"]
        valid = valid_pixels(target)
        logits = reestimate(network, target["image"], momentum=momentum, valid=valid)
        self.batches += 1
        entropy = normalized_entropy(of_pictures(logits, valid)).mean()
        loss = self.total({"entropy": entropy})
        self.logged["momentum"] = torch.tensor(momentum)
        return {"loss": loss + 0 * self.clock}

    def momentum_of(self, k: int) -> float:
        """How far batch k, counted from 0, moves the statistics."""
        if self.momentum is None:
            return 1 / (k + 1)
        return self.momentum * math.exp(-self.decay * k)
