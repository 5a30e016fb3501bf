"""Self-training with a mean teacher and mixed images, what recent source-free methods share.

Tarvainen and Valpola (NeurIPS 2017) for the teacher, ClassMix (Olsson et al., WACV 2021) and DACS
(Tranheden et al., WACV 2021) for the step, DT-ST (Zhao et al., CVPR 2023) and CROTS (Luo et al.,
IJCV 2024) for its use without a source, MIC (Hoyer et al., CVPR 2023) for masked images.
"""

from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor

from sfseg.checks import require_options, require_shares, require_weights, require_whole
from sfseg.methods.base import Shared
from sfseg.methods.dynamic_teacher import DynamicTeacherMethod
from sfseg.methods.masked_consistency import masked_loss, require_fitting
from sfseg.methods.mixing import Labelled, require_one_head, strong
from sfseg.methods.online_refinement import refined
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.teacher import Teacher, ramped
from sfseg.ops.class_mix import class_mask, paste, rarity
from sfseg.ops.confidence import BINS, confidence_histogram, decayed_thresholds
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.losses import cross_entropy
from sfseg.ops.padding import ignore_padding, of_pictures, valid_pixels
from sfseg.types import IGNORE, StepOutput, TrainingBatch

Weighting = Literal["pixels", "share"]
Mix = Literal["classmix", "none"]

MEMORY = 0.99
"""Of the counts of confidences, per iteration: thresholds are those of about 100 iterations."""


class MeanTeacher(DynamicTeacherMethod):
    """A student learns mixed, distorted target images from the labels of its moving average.

    The teacher labels the crops as they are served. Pixels above a threshold of their class, a
    quantile of the teacher's recent confidences, count; half of the classes of each image are
    pasted onto the next one of the batch of the process, so that a batch of one is not mixed.
    The student is evaluated.

    The teacher normalises with the student's running statistics (DAFormer: with the batch's). Of
    DT-ST are left out the negative labels and the store of rare objects that are pasted in other
    sizes; of CROTS the mixing of regions that keeps places and the mining of hard patches. The
    regularisers are off unless asked for.

    A refiner gets the teacher's whole label map, as in CLOUDS; which pixels count is up to the
    teacher's confidence all the same.

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
        dynamic_teacher: move the teacher only where the student has improved (DT-ST), see
            :class:`DynamicTeacherMethod`.
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
        super().__init__(dynamic_teacher=dynamic_teacher, **shared)
        require_options(mix=(mix, Mix), weighting=(weighting, Weighting))
        require_shares(
            momentum=momentum, confidence=confidence, threshold_share=threshold_share,
            colour=colour,
        )  # fmt: skip
        require_weights(masked=masked, entropy_weight=entropy_weight)
        require_whole(1, mask_block=mask_block)
        if rare_class_mix and mix == "none":
            raise ValueError("rare_class_mix must be false for mix=none, got true")
        require_one_head(self.network)
        if masked:
            require_fitting(mask_block, shared["plan"])
        self.momentum, self.ramp = momentum, ramp
        self.mix, self.rare_class_mix = mix, rare_class_mix
        self.weighting, self.confidence = weighting, confidence
        self.threshold_share, self.colour = threshold_share, colour
        self.masked, self.mask_block = masked, mask_block
        self.entropy_weight = entropy_weight
        self.teacher = Teacher(self.network)
        self.register_buffer("histogram", torch.zeros(self.labels.num_classes, BINS))
        self.register_buffer("moves", torch.tensor(0))
        self._counts: Tensor | None = None

    @property
    def labels_online(self) -> bool:
        return True

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target."""
        image, valid = batch["target"]["image"], valid_pixels(batch["target"])
        confidence, label = self.teacher(image).float().softmax(dim=1).max(dim=1)
        counts = confidence >= self.thresholds()[label]
        share = of_pictures(counts, valid).float().mean()
        label = ignore_padding(label, valid)
        self._counts = confidence_histogram(confidence, label, num_classes=len(self.histogram))
        label = refined(self, batch["target"], label, valid)
        learnt = label if self.weighting == "share" else label.masked_fill(~counts, IGNORE)
        mixed = image
        if self.mix == "classmix":
            weight = rarity(self.histogram.sum(dim=1)) if self.rare_class_mix else None
            taken = class_mask(label, num_classes=len(self.histogram), weight=weight)
            if valid is not None:
                taken &= valid.roll(-1, dims=0)  # nothing is pasted where the next has no picture
            mixed, learnt = paste(image, taken), paste(learnt, taken)
        with statistics_of_pictures(self.network, valid):
            logits = self(strong(mixed, self.network, colour=self.colour, valid=valid))
        loss = cross_entropy(logits, learnt)
        terms = {"mixed": share * loss if self.weighting == "share" else loss}
        if self.entropy_weight:
            terms["entropy"] = (
                self.entropy_weight * normalized_entropy(of_pictures(logits, valid)).mean()
            )
        if self.masked:
            whole = Labelled(image, label, share.expand(label.shape))
            terms["masked"] = self.masked * masked_loss(
                self.network, whole, valid, colour=self.colour, block=self.mask_block
            )
        if self.dynamic_teacher:
            self.score_student(image, valid)
        return {"loss": self.total(terms)}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.step.is_skipped:
            return
        assert self._counts is not None
        counts = self.trainer.strategy.reduce(self._counts.float(), reduce_op="sum")
        self.histogram.mul_(MEMORY).add_(cast(Tensor, counts))
        if self.iteration % self.trainer.accumulate_grad_batches:
            return
        if not self.dynamic_teacher or self.has_improved():
            self.moves += 1
            momentum = ramped(self.momentum, int(self.moves)) if self.ramp else self.momentum
            self.teacher.follow(self.network, momentum)

    def thresholds(self) -> Tensor:
        """Confidence (K,) from which a pixel of each class counts."""
        return decayed_thresholds(self.histogram, self.threshold_share, least=self.confidence)
