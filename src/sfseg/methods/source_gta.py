"""Source models of Generalize then Adapt (Kundu et al., ICCV 2021), for clients without source."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from sfseg.checks import require_options
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.networks.heads.multi_head import LeaveOneOutSegmenter
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.ops.losses import Normalize, cross_entropy
from sfseg.ops.padding import continued, of_pictures, valid_pixels
from sfseg.ops.styles import STYLES
from sfseg.randomness import generator, seed32
from sfseg.types import IGNORE, StepOutput, TrainingBatch

LEFT_OUT = {
    "adain": 2,
    "colour": 1,
    "fda_noise": 0,
    "fda": 0,
    "snow": 3,
    "frost": 3,
    "cartoon": 4,
}
"""Which leave-one-out head never sees a style, as in Uni-UVPT's code."""


class SourceGtA(Method):
    """Training on the source in many styles, with heads that have each missed a group of them.

    Styles keep the model from relying on looks that the target will not share. A head that has
    not seen a style is to it what every head is to the target: the client can tell by it how far
    to trust the others. Evaluation uses the global head, which has seen all styles.

    Its numbers belong in tables of their own: adaptation from here has a better start than from a
    model of :class:`sfseg.methods.source_only.SourceOnly`.

    Args:
        styles: names of :data:`LEFT_OUT`, one of which is drawn for each batch.
        clean: whether the image as it is counts as one more style, which no head leaves out; the
            published code of Uni-UVPT does without.
        class_weights: factor of each class's pixels, or ``none``; the published code takes
            HRNet's list for Cityscapes.
        normalize: see :func:`sfseg.ops.losses.cross_entropy`.
        **shared: see :class:`Shared`; ``adapter`` must make a :class:`LeaveOneOutSegmenter`.

    Raises:
        ConfigError: the network has not the heads that the styles need, or an auxiliary head.
        ValueError: a style is unknown or named twice, or the weights do not fit the classes.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        styles: Sequence[str] = tuple(LEFT_OUT),
        clean: bool = False,
        class_weights: Sequence[float] | Literal["none"] = "none",
        normalize: Normalize = "valid",
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        if not styles or len(set(styles)) < len(styles) or set(styles) - LEFT_OUT.keys():
            raise ValueError(
                f"styles must be some of {', '.join(LEFT_OUT)}, each once, got {list(styles)}; "
                "the image as it is comes with clean=true"
            )
        require_options(normalize=(normalize, Normalize))
        self.styles = (*styles, *["clean"] * clean)
        self.normalize: Normalize = normalize
        self._require_heads()
        weights = None if class_weights == "none" else self._weights(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled source images in one style."""
        images = batch["source"]
        image, valid = images["image"].float() / 255, valid_pixels(images)
        seed = self.shared["seed"]
        # One style on all processes: synchronised normalisation waits until all run a head.
        choice = generator(seed, batch_idx, 0, "style").integers(len(self.styles))
        style = self.styles[choice]
        rng = torch.Generator(image.device)
        rng.manual_seed(seed32(seed, batch_idx, self.global_rank, "style"))
        with torch.autocast(image.device.type, enabled=False):
            styled = STYLES[style](continued(image, valid), rng)
        if valid is not None:
            styled = torch.where(valid[:, None], styled, image)
        left_out = LEFT_OUT.get(style)
        return {"loss": self.loss(styled, images["label"], left_out=left_out, valid=valid)}

    def loss(
        self,
        image: Float[Tensor, "B 3 H W"],
        label: Integer[Tensor, "B H W"],
        *,
        left_out: int | None,
        valid: Bool[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, ""]:
        """Sum of the heads' cross-entropies.

        Args:
            image: RGB in [0, 1], already in a style.
            label: class ids.
            left_out: number of the head that must not see it.
            valid: pixels that belong to pictures, see :meth:`Method.look`.
        """
        network = self._network
        heads = [head for head in range(network.num_heads) if head != left_out]
        with statistics_of_pictures(network, valid):
            logits = network.forward_heads(image.to(network.mean.dtype), heads=heads)
        if self.normalize == "all":  # padding has no label, but would count among them
            logits, label = [of_pictures(own, valid) for own in logits], of_pictures(label, valid)
        losses = [self._cross_entropy(scores, label) for scores in logits]
        self.step.terms = {
            f"head_{k}": loss.detach() for k, loss in zip(heads, losses, strict=True)
        }
        loss = torch.stack(losses).sum()
        if left_out is not None:
            # The head is not run, or the style would enter its statistics; its gradient is exactly
            # 0, because parallel training waits for one of every parameter.
            idle = [p.sum() for p in network.leave_one_out[left_out].parameters()]
            loss = loss + 0 * torch.stack(idle).sum()
        return loss

    def _cross_entropy(
        self, logits: Float[Tensor, "B K H W"], label: Integer[Tensor, "B H W"]
    ) -> Float[Tensor, ""]:
        if self.class_weights is None:
            return cross_entropy(logits, label, normalize=self.normalize)
        # Divided by pixels as in mmsegmentation, not by the sum of their weights.
        total = F.cross_entropy(
            logits.float(),
            label.long(),
            weight=self.class_weights,
            ignore_index=IGNORE,
            reduction="sum",
        )
        counted = (label != IGNORE).sum().clamp_min(1)
        return total / (label.numel() if self.normalize == "all" else counted)

    @property
    def _network(self) -> LeaveOneOutSegmenter:
        network = self.network
        if not isinstance(network, LeaveOneOutSegmenter):
            raise ConfigError(
                "the network must have leave-one-out heads, got a plain "
                f"{type(network).__name__}; set method.adapter as in conf/method/source_gta.yaml"
            )
        return network

    def _require_heads(self) -> None:
        network = self._network
        needed = 1 + max(LEFT_OUT[style] for style in self.styles if style != "clean")
        if len(network.leave_one_out) < needed:
            raise ConfigError(
                f"the network must have at least {needed} leave-one-out heads for the styles "
                f"{', '.join(self.styles)}, got {len(network.leave_one_out)}; set "
                "method.adapter.heads or method.styles"
            )
        if network.aux_head is not None:
            raise ConfigError(
                "backbone.aux must be null for Generalize then Adapt, which trains all heads on "
                "the same maps; choose a backbone without an auxiliary head"
            )

    def _weights(self, class_weights: Sequence[float] | str) -> Tensor:
        num_classes = self.labels.num_classes
        if isinstance(class_weights, str) or len(class_weights) != num_classes:
            raise ValueError(
                f"class_weights must be 'none' or one number for each of the {num_classes} "
                f"classes, got {class_weights}"
            )
        return torch.tensor(class_weights, dtype=torch.float32)
