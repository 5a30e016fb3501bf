"""CLOUDS (Benigmim et al., CVPR 2024, arXiv:2312.09788): generalisation with foundation models."""

from typing import Any, Literal, Unpack, cast

import torch
from jaxtyping import Integer
from torch import Tensor

from sfseg.checks import require_options, require_shares, require_whole
from sfseg.methods.base import Method, Shared
from sfseg.methods.mask_classification import mask_sums, require_mask_head
from sfseg.methods.online_refinement import refined
from sfseg.modes import evaluating
from sfseg.networks.heads.mask2former.criterion import Sums
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Teacher
from sfseg.ops.inference import most_likely
from sfseg.ops.padding import ignore_padding, valid_pixels
from sfseg.ops.photometric import photometric
from sfseg.types import Batch, StepOutput, TrainingBatch

Phase = Literal["warmup", "joint"]


class CLOUDS(Method):
    """Masks learnt on the source, then also on generated images that a slow teacher labels.

    Three foundation models meet: the backbone is CLIP's and frozen, the images come from a
    diffusion model, and SAM may refine the teacher's labels. No image of a target is seen.

    The warm-up trains the head on the source. The joint phase goes on from its model: the teacher,
    an average of the head on the backbone that both share, labels generated images as they are, and
    the student learns the masks of these labels on images in other colours. Images of both count
    alike; ``plan.repeat_factor`` says how many are generated.

    Where the release differs: its teacher is not kept in checkpoints and begins anew in a run that
    is continued; how many images of a batch are generated is left to chance there, and is the
    expected number here, rounded up or down in turn.

    Args:
        phase: ``warmup``: the source alone; ``joint``: both.
        momentum: m of the teacher, in [0, 1].
        teacher_every: optimiser steps between two of its moves.
        photometric: distort the colours of all images that the student learns, see
            :func:`sfseg.ops.photometric.photometric`.
        **shared: see :class:`Shared`.

    Raises:
        ConfigError: the head predicts no masks.
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        *,
        phase: Phase = "joint",
        momentum: float = 0.999,
        teacher_every: int = 100,
        photometric: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_options(phase=(phase, Phase))
        require_shares(momentum=momentum)
        require_whole(1, teacher_every=teacher_every)
        head = require_mask_head(self.network, "clouds")
        self.phase: Phase = phase
        self.momentum, self.teacher_every = momentum, teacher_every
        self.photometric = photometric
        self.criterion = head.criterion
        self.teacher = Teacher(head) if phase == "joint" else None

    @property
    def labels_online(self) -> bool:
        return self.teacher is not None

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the source and, jointly, on generated ones."""
        sums = self.sums(batch["source"], batch["source"]["label"])
        if self.phase == "joint":
            generated = batch["target"]
            sums = sums.plus(self.sums(generated, self.pseudo_labels(generated)))
        return {"loss": self.total(self.criterion.terms(sums))}

    def sums(self, images: Batch, label: Tensor) -> Sums:
        """Losses of images and their labels (B, H, W), in other colours."""
        view = None
        if self.photometric:
            view = photometric(images["image"].float() / 255, valid_pixels(images))
        return mask_sums(self.network, images, label, view)

    @torch.no_grad()
    def pseudo_labels(self, images: Batch) -> Integer[Tensor, "B H W"]:
        """The teacher's most likely classes, refined; IGNORE in padding and where nothing is."""
        assert self.teacher is not None
        network, image = cast(Segmenter, self.network), images["image"]
        with evaluating(network.backbone):
            logits = self.teacher(network.features(image))
        label = most_likely(network.enlarge(logits, image))
        valid = valid_pixels(images)
        return refined(self, images, ignore_padding(label, valid), valid)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        every = self.teacher_every * self.trainer.accumulate_grad_batches
        if self.teacher is not None and self.iteration % every == 0 and not self.step.is_skipped:
            self.teacher.follow(cast(Segmenter, self.network).head, self.momentum)
