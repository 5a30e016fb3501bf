"""Masked image consistency (Hoyer et al., MIC, CVPR 2023, arXiv:2212.01322) for any host.

The student sees images with hidden blocks, and learns what a teacher says of the whole ones.
"""

from collections.abc import Mapping
from typing import Any, Literal, Unpack, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfseg.checks import require_options, require_shares, require_weights, require_whole
from sfseg.methods.mixing import Labelled, half_of_source, strong, weighted_loss
from sfseg.methods.online_refinement import refined
from sfseg.methods.supervised import SharedSupervised, Supervised
from sfseg.modes import evaluating
from sfseg.networks.batch_norm import FakeStatistics, passing_by
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Teacher, ramped
from sfseg.ops.masking import block_mask
from sfseg.ops.padding import each_picture, ignore_padding, of_pictures, valid_pixels
from sfseg.types import Batch, TrainingBatch, size_text

MaskMode = Literal["target", "both"]


def require_fitting(block: int, plan: Mapping[str, Any]) -> None:
    """Refuse blocks larger than the target's crops, which would be hidden or shown whole.

    Args:
        block: side in pixels.
        plan: see :class:`sfseg.methods.base.Shared`; crops that follow the pictures are not known.

    Raises:
        ValueError: with the way out.
    """
    crop = plan["target_view"].crop
    if crop is not None and block > min(crop):
        raise ValueError(
            f"method.mask_block must fit into the target's crops of {size_text(crop)}, got "
            f"{block}; set method.mask_block={max(1, min(crop) // 16)}, a larger "
            "data.target_crop, or method.masked=0"
        )


def masked_loss(
    network: nn.Module,
    images: Labelled,
    valid: Bool[Tensor, "B H W"] | None,
    *,
    colour: float,
    hue: float = 0.0,
    block: int,
    ratio: float = 0.7,
) -> Float[Tensor, ""]:
    """See :func:`weighted_loss`, of images in other colours with blocks of the mean colour.

    That is 0 to the network.

    Args:
        network: the student, a :class:`Segmenter`.
        images: whole.
        valid: pixels that belong to pictures; None: all.
        colour: strength of :func:`sfseg.ops.masking.strong_view`; 0 leaves the colours.
        hue: its largest shift of the hue, in turns.
        block: side of a block in pixels.
        ratio: probability of a block to be hidden.
    """
    view = strong(images.image, network, colour=colour, hue=hue, valid=valid)
    visible = block_mask(view, ratio=ratio, block=block)
    view = torch.where(visible, view, cast(Segmenter, network).mean)
    return weighted_loss(network, view, images, valid)


class SharedMasked(SharedSupervised, total=False):
    """Constructor arguments of :class:`MaskedConsistency`."""

    momentum: float
    confidence: float
    teacher_statistics: FakeStatistics
    pseudo_label_crop: tuple[int, int]
    colour: float
    hue: float
    masked: float
    mask_block: int
    mask_ratio: float
    mask_mode: MaskMode


class MaskedConsistency(Supervised):
    """Base of methods with labels of the source that may learn masked images beside.

    The teacher is the student's moving average, quick at first. Every pixel that it labels counts,
    weighed by the share of the batch's pixels that it is confident of. An auxiliary head does not
    learn masked images.

    Args:
        momentum: m of the teacher; 0.99 in DACS, 0.999 in DAFormer and MIC.
        confidence: from which a pixel counts in the share.
        teacher_statistics: what the teacher's batch normalisation uses: statistics of its ``own``
            batch, as in DAFormer, or the student's ``running`` ones, which are of both domains.
        pseudo_label_crop: rows of a picture's crop, from its top and from its bottom, that are not
            learnt from the teacher; (15, 120) of 512 in DAFormer, for the car's bonnet.
        colour: strength of :func:`sfseg.ops.masking.strong_view`; 0 leaves the images as they are.
        hue: its largest shift of the hue, in turns.
        masked: lambda_M, weight of the masked images' loss; 0 leaves it out, 1 in MIC.
        mask_block: side of a hidden block in pixels.
        mask_ratio: probability of a block to be hidden; 0.7 in MIC.
        mask_mode: what is masked: the ``target``'s images in other colours, MIC's choice for
            synthetic sources; or ``both`` domains' in their own, half of a batch with the source's
            labels, its choice for Cityscapes to ACDC and to Dark Zurich.
        **shared: see :class:`sfseg.methods.supervised.Supervised`.

    Raises:
        ValueError: a number out of its range, or blocks or a batch that do not do for masking.
    """

    is_taught = False
    """Whether there is a teacher without masked images, too."""
    moves: Tensor

    def __init__(
        self,
        *,
        momentum: float = 0.99,
        confidence: float = 0.968,
        teacher_statistics: FakeStatistics = "own",
        pseudo_label_crop: tuple[int, int] = (0, 0),
        colour: float = 0.2,
        hue: float = 0.2,
        masked: float = 0.0,
        mask_block: int = 8,
        mask_ratio: float = 0.7,
        mask_mode: MaskMode = "target",
        **shared: Unpack[SharedSupervised],
    ) -> None:
        super().__init__(**shared)
        require_shares(
            momentum=momentum, confidence=confidence, colour=colour, hue=hue, mask_ratio=mask_ratio
        )
        require_weights(masked=masked)
        require_whole(1, mask_block=mask_block)
        require_whole(0, **{"pseudo_label_crop": min(pseudo_label_crop)})
        require_options(
            teacher_statistics=(teacher_statistics, FakeStatistics),
            mask_mode=(mask_mode, MaskMode),
        )
        if masked:
            require_fitting(mask_block, shared["plan"])
        if masked and mask_mode == "both" and shared["plan"]["batch_size"] < 2:
            raise ValueError(
                "data.adaptation.batch_size must be at least 2 for method.mask_mode=both, which "
                f"masks images of either domain, got {shared['plan']['batch_size']}; or set "
                "method.mask_mode=target"
            )
        self.momentum, self.confidence = momentum, confidence
        self.teacher_statistics: FakeStatistics = teacher_statistics
        self.top, self.bottom = pseudo_label_crop
        self.colour, self.hue = colour, hue
        self.masked, self.mask_block, self.mask_ratio = masked, mask_block, mask_ratio
        self.mask_mode: MaskMode = mask_mode
        self.teacher: Teacher | None = None
        if masked or self.is_taught:
            self.teacher = Teacher(self.network)
            self.register_buffer("moves", torch.tensor(0))

    @property
    def labels_online(self) -> bool:
        return self.teacher is not None

    def masked_terms(
        self, batch: TrainingBatch, labelled: Labelled | None = None
    ) -> dict[str, Tensor]:
        """The masked images' loss, weighted and by name; empty where it is left out.

        Args:
            batch: of both domains.
            labelled: images of the target with the teacher's labels, if they are there already.
        """
        if not self.masked:
            return {}
        target = batch["target"]
        images = self.pseudo_labels(target) if labelled is None else labelled
        valid, colour = valid_pixels(target), self.colour
        if self.mask_mode == "both":
            images, valid, colour = *half_of_source(batch["source"], images, valid), 0.0
        loss = masked_loss(
            self.network, images, valid, colour=colour, hue=self.hue, block=self.mask_block,
            ratio=self.mask_ratio,
        )  # fmt: skip
        return {"masked": self.masked * loss}

    @torch.no_grad()
    def pseudo_labels(self, target: Batch) -> Labelled:
        """What the teacher says of the target's images, with one weight for all rows learnt."""
        assert self.teacher is not None
        image, valid, network = target["image"], valid_pixels(target), self.teacher.network
        with evaluating(network):
            network.train(self.teacher_statistics == "own")
            with (
                passing_by(network, self.teacher_statistics),
                statistics_of_pictures(network, valid),
            ):
                confidence, label = self.teacher(image).float().softmax(dim=1).max(dim=1)
        share = (of_pictures(confidence, valid) >= self.confidence).float().mean()
        weight = share.expand(label.shape).clone()
        for own in each_picture(weight, valid):
            own[:, : self.top] = 0
            own[:, max(own.shape[1] - self.bottom, 0) :] = 0
        return Labelled(image, refined(self, target, ignore_padding(label, valid), valid), weight)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        has_stepped = self.iteration % self.trainer.accumulate_grad_batches == 0
        if self.teacher is not None and has_stepped and not self.step.is_skipped:
            self.moves += 1
            self.teacher.follow(self.network, ramped(self.momentum, int(self.moves)))
