"""Self-training with a mean teacher and mixed images, what recent source-free methods share.

Tarvainen and Valpola (NeurIPS 2017) for the teacher, ClassMix (Olsson et al., WACV 2021) and DACS
(Tranheden et al., WACV 2021) for the step, DT-ST (Zhao et al., CVPR 2023) and CROTS (Luo et al.,
IJCV 2024) for its use without a source, MIC (Hoyer et al., CVPR 2023) for masked images.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack, cast

import torch
from torch import Tensor

from sfseg.checks import require_at_least, require_options, require_shares, require_weights
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.modes import evaluating
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Teacher
from sfseg.ops.class_mix import class_mask, paste
from sfseg.ops.confidence import BINS, class_quantiles, confidence_histogram
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.label_free import soft_neighbourhood_density
from sfseg.ops.losses import cross_entropy
from sfseg.ops.masking import block_mask, strong_view
from sfseg.types import IGNORE, StepOutput, TrainingBatch

Weighting = Literal["pixels", "share"]
Mix = Literal["classmix", "none"]

MEMORY = 0.99
"""Of the counts of confidences, per iteration: thresholds are those of about 100 iterations."""
SMALLEST_COUNT = 1e-3
"""Counts are rounded to it: a pixel of a rare class still counts after hundreds of iterations."""
HIDDEN = 0.7
"""Share of the blocks of a masked image (MIC)."""
SCORED_PIXELS = 100
"""Of each image, for the score of DT-ST; like the next three a value of its published code."""
FIRST_QUERY, QUERY_EVERY, LAST_QUERY = 9, 3, 30
"""Iterations since the teacher has moved at which the student is compared with its past."""


class Remembered(NamedTuple):
    """Images that the student has been scored on.

    image: (B, 3, H, W) uint8.
    position: (B, n) of the scored pixels, counted row by row.
    score: (B,) at that time.
    """

    image: Tensor
    position: Tensor
    score: Tensor


class MeanTeacher(Method):
    """A student learns mixed, distorted target images from the labels of its moving average.

    The teacher labels the crops as they are served. Pixels above a threshold of their class, a
    quantile of the teacher's recent confidences, count; half of the classes of each image are
    pasted onto the next one of the batch of the process, so that a batch of one is not mixed.
    The student is evaluated.

    The teacher normalises with the student's running statistics (DAFormer: with the batch's). Of
    DT-ST are left out the negative labels and the store of rare objects that are pasted in other
    sizes; of CROTS the mixing of regions that keeps places and the mining of hard patches. The
    regularisers are off unless asked for.

    Args:
        momentum: m of the teacher, in [0, 1].
        ramp: at the teacher's t-th move use min(1 - 1 / (t + 1), m), with which DACS lets a
            teacher forget its random start. Here it starts from the source model, which the first
            steps of a student are not to replace; DT-ST has no ramp either.
        mix: ``classmix``, or ``none``.
        rare_class_mix: draw classes in proportion to 1 / ln(1.01 + share of the teacher's recent
            pixels), the weight with which DT-ST's code draws its images, instead of all alike.
        weighting: ``pixels`` leaves those that do not count out; ``share`` keeps all and weighs
            the loss by the share that does, as DACS.
        confidence: least confidence of a pixel that counts, in [0, 1].
        threshold_share: share of each class's pixels, the least confident, that do not count;
            0: the fixed confidence alone decides.
        colour: strength of :func:`sfseg.ops.masking.strong_view`; 0 leaves the colours.
        masked: weight of the masked image consistency; 0 leaves it out, 1 in MIC. It learns all
            labels of the teacher, weighed by the share of pixels that count.
        mask_block: side of a block in pixels.
        dynamic_teacher: move the teacher only where the student has improved on most of the
            images since its last move, by :func:`soft_neighbourhood_density`, or after 30
            iterations (DT-ST). Checkpoints then hold those images.
        entropy_weight: of the mean normalised entropy of the mixed images; 0 leaves it out.
        **shared: see :class:`Shared`.

    Raises:
        ConfigError: the network has an auxiliary head, which would not train.
        ValueError: an unknown option, or a number out of its range.
    """

    histogram: Tensor
    moves: Tensor

    def __init__(
        self,
        *,
        momentum: float = 0.99,
        ramp: bool = False,
        mix: Mix = "classmix",
        rare_class_mix: bool = False,
        weighting: Weighting = "pixels",
        confidence: float = 0.0,
        threshold_share: float = 0.5,
        colour: float = 0.2,
        masked: float = 0.0,
        mask_block: int = 8,
        dynamic_teacher: bool = False,
        entropy_weight: float = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_options(mix=(mix, Mix), weighting=(weighting, Weighting))
        require_shares(
            momentum=momentum, confidence=confidence, threshold_share=threshold_share,
            colour=colour,
        )  # fmt: skip
        require_weights(masked=masked, entropy_weight=entropy_weight)
        require_at_least(1, mask_block=mask_block)
        if rare_class_mix and mix == "none":
            raise ValueError("rare_class_mix must be false for mix=none, got true")
        if getattr(self.network, "aux_head", None) is not None:
            raise ConfigError(
                "backbone.aux must be null for a mean teacher, which trains one head; choose a "
                "backbone without an auxiliary head"
            )
        self.momentum, self.ramp = momentum, ramp
        self.mix, self.rare_class_mix = mix, rare_class_mix
        self.weighting, self.confidence = weighting, confidence
        self.threshold_share, self.colour = threshold_share, colour
        self.masked, self.mask_block = masked, mask_block
        self.dynamic_teacher, self.entropy_weight = dynamic_teacher, entropy_weight
        self.teacher = Teacher(self.network)
        self.register_buffer("histogram", torch.zeros(self.labels.num_classes, BINS))
        self.register_buffer("moves", torch.tensor(0))
        self.remembered: list[Remembered] = []
        self._scored: Remembered | None = None
        self._counts: Tensor | None = None

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target."""
        image = batch["target"]["image"]
        confidence, label = self.teacher(image).float().softmax(dim=1).max(dim=1)
        self._counts = confidence_histogram(confidence, label, num_classes=len(self.histogram))
        counts = confidence >= self.thresholds()[label]
        share = counts.float().mean()
        learnt = label if self.weighting == "share" else label.masked_fill(~counts, IGNORE)
        mixed = image
        if self.mix == "classmix":
            taken = class_mask(label, num_classes=len(self.histogram), weight=self._rarity())
            mixed, learnt = paste(image, taken), paste(learnt, taken)
        logits = self(self._strong(mixed))
        loss = cross_entropy(logits, learnt)
        terms = {"mixed": share * loss if self.weighting == "share" else loss}
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * normalized_entropy(logits).mean()
        if self.masked:
            logits = self(self._hidden(self._strong(image)))
            terms["masked"] = self.masked * share * cross_entropy(logits, label)
        if self.dynamic_teacher:
            self._scored = self._score_now(image)
        return {"loss": self.total(terms)}

    def thresholds(self) -> Tensor:
        """Confidence (K,) from which a pixel of each class counts."""
        quantile = torch.zeros_like(self.histogram[:, 0])
        if self.threshold_share:
            # A class that has not been seen yet has no quantile. Confidences of one bin are not
            # told apart, so that half of a class which is certain everywhere is not left out.
            counts = (self.histogram / SMALLEST_COUNT).round().long()
            quantile = class_quantiles(counts, self.threshold_share).nan_to_num(0)
        return ((quantile * BINS).floor() / BINS).clamp_min(self.confidence)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.step.is_skipped:
            return
        assert self._counts is not None
        counts = self.trainer.strategy.reduce(self._counts.float(), reduce_op="sum")
        self.histogram.mul_(MEMORY).add_(cast(Tensor, counts))
        if self.iteration % self.trainer.accumulate_grad_batches:
            return
        if not self.dynamic_teacher or self._has_improved():
            self.moves += 1
            most = 1 - 1 / (int(self.moves) + 1) if self.ramp else 1.0
            self.teacher.follow(self.network, min(most, self.momentum))

    def undo_step(self) -> Callable[[], None]:
        before = list(self.remembered)

        def undo() -> None:
            self.remembered = before

        return undo

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.dynamic_teacher:
            checkpoint["remembered"] = [self._of_all_processes(kept) for kept in self.remembered]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if not self.dynamic_teacher:
            return
        if "remembered" not in checkpoint:
            raise ConfigError(
                "the checkpoint is of a run without method.dynamic_teacher=true, which cannot go "
                "on with it; continue it with the setting it had, or start anew"
            )
        self.remembered = [
            Remembered(*(part[self.global_rank % len(part)] for part in kept))
            for kept in checkpoint["remembered"]
        ]

    def _of_all_processes(self, kept: Remembered) -> list[Tensor]:
        if self.trainer.world_size == 1:
            return [part[None].cpu() for part in kept]
        return [part.cpu() for part in cast(list[Tensor], self.all_gather(list(kept)))]

    def _rarity(self) -> Tensor | None:
        """Weights (K,) of the draw of classes."""
        if not self.rare_class_mix:
            return None
        pixels = self.histogram.sum(dim=1)
        return 1 / torch.log(1.01 + pixels / pixels.sum().clamp_min(1))

    def _strong(self, image: Tensor) -> Tensor:
        view = image.float() / 255
        if self.colour:
            view = strong_view(view, strength=self.colour)
        return view.to(cast(Segmenter, self.network).mean.dtype)

    def _hidden(self, image: Tensor) -> Tensor:
        """Images with hidden blocks of the mean colour, which is 0 to the network."""
        visible = block_mask(image, ratio=HIDDEN, block=self.mask_block)
        return torch.where(visible, image, cast(Segmenter, self.network).mean)

    def _score_now(self, image: Tensor) -> Remembered:
        """The student's score of images at pixels that are drawn now."""
        pixels = image[0, 0].numel()
        order = torch.rand(len(image), pixels, device=image.device)
        position = order.topk(min(SCORED_PIXELS, pixels), dim=1).indices
        return Remembered(image, position, self._score(image, position))

    @torch.no_grad()
    def _score(self, image: Tensor, position: Tensor) -> Tensor:
        """Soft neighbourhood density (B,) of the student, in evaluation mode as in DT-ST."""
        with evaluating(self.network):
            logits: Tensor = self(image.to(self.device))
        rows = logits.float().softmax(dim=1).flatten(2).mT  # (B, H * W, K)
        pairs = zip(rows, position.to(self.device), strict=True)
        return torch.stack([soft_neighbourhood_density(own[chosen]) for own, chosen in pairs])

    def _has_improved(self) -> bool:
        """Whether the teacher shall move; forgets the images if so."""
        assert self._scored is not None
        self.remembered.append(self._scored)
        waited = len(self.remembered)
        if waited < FIRST_QUERY or (waited - FIRST_QUERY) % QUERY_EVERY:
            return False
        with self.trainer.precision_plugin.forward_context():
            now = [self._score(kept.image, kept.position) for kept in self.remembered]
        before = [kept.score.to(self.device) for kept in self.remembered]
        better = (torch.cat(now) > torch.cat(before)).float().mean()
        better = cast(Tensor, self.trainer.strategy.reduce(better, reduce_op="mean"))
        if better <= 0.5 and waited < LAST_QUERY:
            return False
        self.remembered = []
        return True
