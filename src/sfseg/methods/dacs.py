"""DACS (Tranheden et al., WACV 2021, arXiv:2007.08702): source's classes on the target's images.

Its step is also DAFormer's (Hoyer et al., CVPR 2022, arXiv:2111.14887), on a network of two
resolutions HRDA's (Hoyer et al., ECCV 2022, arXiv:2204.13132) and, with masked images, that of MIC
(Hoyer et al., CVPR 2023, arXiv:2212.01322).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack, cast

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn

from sfseg.checks import require_at_least, require_options, require_shares, require_weights
from sfseg.errors import ConfigError
from sfseg.methods.mixing import require_one_head, strong, window, with_hidden_blocks
from sfseg.methods.supervised import Look, SharedSupervised, Supervised
from sfseg.methods.two_resolutions import seen_in_training, with_detail
from sfseg.modes import evaluating
from sfseg.networks.batch_norm import FakeStatistics, passing_by
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Frozen, Teacher, ramped
from sfseg.ops.class_mix import class_mask
from sfseg.ops.feature_distance import feature_distance
from sfseg.ops.losses import cross_entropy
from sfseg.ops.padding import ignore_padding, of_pictures, valid_pixels
from sfseg.types import IGNORE, Batch, StepOutput, TrainingBatch

THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle", "sign", "pedestrian", "bicyclist",
)  # fmt: skip
"""DAFormer's, by the names of Cityscapes, and those of CamVid."""


class Labelled(NamedTuple):
    """Images, and what is to be learnt of them.

    image: (B, 3, H, W) RGB in [0, 255].
    label: (B, H, W) class ids.
    weight: (B, H, W) of each pixel's loss.
    """

    image: Shaped[Tensor, "B 3 H W"]
    label: Integer[Tensor, "B H W"]
    weight: Float[Tensor, "B H W"]


class DACS(Supervised):
    """The student learns the source, and images of the target with classes of the source on them.

    A step sums up to three losses: the source's labels; a distorted mix of both domains, whose
    target pixels the teacher has labelled; and, as in MIC, the target with hidden blocks, labelled
    by the teacher who sees all of it. Every pixel of the target counts, weighed by the share of the
    batch's pixels that the teacher is confident of. The teacher is the student's moving average,
    quick at first; the student is evaluated.

    Unlike ``mean_teacher``, which has no source: the pasted classes are the source's with their
    true labels, and confidence weighs all pixels in place of choosing some.

    Args:
        momentum: m of the teacher; 0.99 in DACS, 0.999 in DAFormer and MIC.
        confidence: from which a pixel counts in the share.
        teacher_statistics: what the teacher's batch normalisation uses: statistics of its ``own``
            batch, as in DAFormer, or the student's ``running`` ones, which are of both domains.
        pseudo_label_crop: rows of a crop, from its top and from its bottom, that the mix does not
            learn from the teacher; (15, 120) of 512 in DAFormer, for the car's bonnet.
        colour: strength of :func:`sfseg.ops.masking.strong_view`.
        masked: weight of the masked images' loss; 0 leaves it out, 1 in MIC.
        mask_block: side of a hidden block in pixels.
        feature_distance: lambda_FD of DAFormer, weight of the distance of the source's features
            from those of ``imagenet``; 0 leaves it out.
        things: names of the classes in whose cells it counts, of those that the task has.
        imagenet: a network with the backbone's own weights, which stays as it is.
        reference_quirks: draw the pasted classes as the published code does, see
            :func:`sfseg.ops.class_mix.class_mask`.
        **shared: see :class:`sfseg.methods.supervised.Supervised`.

    Raises:
        ConfigError: the network has an auxiliary head, or the task none of the things.
        ValueError: a number out of its range, or source crops smaller than the target's.
    """

    moves: Tensor

    def __init__(
        self,
        *,
        momentum: float = 0.99,
        confidence: float = 0.968,
        teacher_statistics: FakeStatistics = "own",
        pseudo_label_crop: tuple[int, int] = (0, 0),
        colour: float = 0.2,
        masked: float = 0.0,
        mask_block: int = 8,
        feature_distance: float = 0.0,
        things: Sequence[str] = THINGS,
        imagenet: nn.Module | None = None,
        reference_quirks: bool = False,
        **shared: Unpack[SharedSupervised],
    ) -> None:
        require_one_head(shared["network"])
        super().__init__(**shared)
        require_shares(momentum=momentum, confidence=confidence, colour=colour)
        require_weights(masked=masked, feature_distance=feature_distance)
        require_at_least(1, mask_block=mask_block)
        require_at_least(0, **{"pseudo_label_crop": min(pseudo_label_crop)})
        require_options(teacher_statistics=(teacher_statistics, FakeStatistics))
        crops = [shared["plan"][f"{domain}_view"].crop for domain in ("source", "target")]
        if any(theirs < mine for theirs, mine in zip(*crops, strict=True)):
            raise ValueError(
                f"data.source_view.crop must be at least as large as the target's, from which "
                f"pixels go there, got {list(crops[0])} and {list(crops[1])}; set it, or "
                "data.target_crop"
            )
        self.momentum, self.confidence = momentum, confidence
        self.teacher_statistics: FakeStatistics = teacher_statistics
        self.top, self.bottom = pseudo_label_crop
        self.colour, self.reference_quirks = colour, reference_quirks
        self.masked, self.mask_block = masked, mask_block
        self.feature_distance = feature_distance
        self.things = [k for k, name in enumerate(self.labels.classes) if name in set(things)]
        if feature_distance and not self.things:
            raise ConfigError(
                f"method.things must name classes of {self.labels.name} "
                f"({', '.join(self.labels.classes)}), got {list(things)}; or set "
                "method.feature_distance=0"
            )
        if feature_distance:
            assert imagenet is not None, "runs/preparation.py builds it"
            self.imagenet = Frozen(cast(Segmenter, imagenet).backbone)
        self.teacher = Teacher(self.network)
        self.register_buffer("moves", torch.tensor(0))

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the source and unlabelled ones of the target."""
        source, target = batch["source"], batch["target"]
        terms = self.source_terms(source)
        labelled, valid = self.pseudo_labels(target), valid_pixels(target)
        terms["mixed"] = self.loss(self.mix(source, labelled, valid), valid)
        if self.masked:
            terms["masked"] = self.masked * self.loss(labelled, valid, hide=True)
        return {"loss": self.total(terms)}

    def source_terms(self, source: Batch) -> dict[str, Tensor]:
        """Cross-entropy on the source's labels, and how far its things are from ImageNet's."""
        network, shown = cast(Segmenter, self.network), valid_pixels(source)
        logits, maps, detail = seen_in_training(network, source["image"], shown)
        terms = self.cross_entropies(Look((logits,), shown, detail), source["label"])
        if self.feature_distance:
            with torch.no_grad():
                reference = self.imagenet(network.prepared(source["image"]))[-1]
            label = network.padded(source["label"], value=IGNORE)
            distance = feature_distance(maps[-1], reference, label, classes=self.things)
            terms["feature_distance"] = self.feature_distance * distance
        return terms

    @torch.no_grad()
    def pseudo_labels(self, target: Batch) -> Labelled:
        """What the teacher says of the target's images, with one weight for all their pixels."""
        image, valid, network = target["image"], valid_pixels(target), self.teacher.network
        with evaluating(network):
            network.train(self.teacher_statistics == "own")
            with (
                passing_by(network, self.teacher_statistics),
                statistics_of_pictures(network, valid),
            ):
                confidence, label = self.teacher(image).float().softmax(dim=1).max(dim=1)
        share = (of_pictures(confidence, valid) >= self.confidence).float().mean()
        return Labelled(image, ignore_padding(label, valid), share.expand(label.shape))

    def mix(self, source: Batch, target: Labelled, valid: Tensor | None) -> Labelled:
        """Target images with all pixels of half of the classes of a source image each.

        Of source crops that are larger a window is taken, at a place that is drawn.
        """
        image, label, shown = window(source, (target.label.shape[-2], target.label.shape[-1]))
        quirks = self.reference_quirks
        taken = class_mask(label, num_classes=self.labels.num_classes, of_batch=quirks) & shown
        if valid is not None:
            taken &= valid
        weight = target.weight.clone()
        weight[:, : self.top] = 0
        weight[:, max(weight.shape[1] - self.bottom, 0) :] = 0
        return Labelled(
            torch.where(taken[:, None], image, target.image),
            torch.where(taken, label, target.label),
            torch.where(taken, 1.0, weight),
        )

    def loss(self, images: Labelled, valid: Tensor | None, *, hide: bool = False) -> Tensor:
        """Weighted cross-entropy of the student on a strong view, over the number of all pixels."""
        view = strong(images.image, self.network, colour=self.colour, valid=valid)
        if hide:
            view = with_hidden_blocks(view, self.network, block=self.mask_block)
        logits, _, detail = seen_in_training(self.network, view, valid)
        return with_detail(_cross_entropy, logits, detail, images.label, images.weight, valid)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.step.is_skipped or self.iteration % self.trainer.accumulate_grad_batches:
            return
        self.moves += 1
        self.teacher.follow(self.network, ramped(self.momentum, int(self.moves)))


def _cross_entropy(logits: Tensor, label: Tensor, weight: Tensor, valid: Tensor | None) -> Tensor:
    seen, label, weight = (of_pictures(part, valid) for part in (logits, label, weight))
    return cross_entropy(seen, label, normalize="all", weight=weight)
