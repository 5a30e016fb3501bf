"""DACS (Tranheden et al., WACV 2021, arXiv:2007.08702): source's classes on the target's images.

Its step is also DAFormer's (Hoyer et al., CVPR 2022, arXiv:2111.14887), on a network of two
resolutions HRDA's (Hoyer et al., ECCV 2022, arXiv:2204.13132) and, with masked images, that of MIC
(Hoyer et al., CVPR 2023, arXiv:2212.01322).
"""

from collections.abc import Sequence
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sfseg.checks import require_options, require_weights
from sfseg.errors import ConfigError
from sfseg.methods.masked_consistency import MaskedConsistency, SharedMasked
from sfseg.methods.mixing import Labelled, require_one_head, strong, weighted_loss, window
from sfseg.methods.supervised import Look
from sfseg.methods.two_resolutions import seen_in_training
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Frozen
from sfseg.ops.class_mix import class_mask
from sfseg.ops.feature_distance import feature_distance
from sfseg.ops.padding import valid_pixels
from sfseg.types import IGNORE, Batch, StepOutput, TrainingBatch

Propagate = Literal["sum", "each"]

THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle", "sign", "pedestrian", "bicyclist",
)  # fmt: skip
"""DAFormer's, by the names of Cityscapes, and those of CamVid."""


class DACS(MaskedConsistency):
    """The student learns the source, and images of the target with classes of the source on them.

    A step sums up to three losses: the source's labels; a distorted mix of both domains, whose
    target pixels the teacher has labelled; and, as in MIC, the target with hidden blocks, labelled
    by the teacher who sees all of it. Every pixel of the target counts, weighed by the share of the
    batch's pixels that the teacher is confident of. The teacher is the student's moving average,
    quick at first; the student is evaluated.

    Unlike ``mean_teacher``, which has no source: the pasted classes are the source's with their
    true labels, and confidence weighs all pixels in place of choosing some.

    Args:
        feature_distance: lambda_FD of DAFormer, weight of the distance of the source's features
            from those of ``imagenet``; 0 leaves it out.
        things: names of the classes in whose cells it counts, of those that the task has.
        imagenet: a network with the backbone's own weights, which stays as it is.
        reference_quirks: draw the pasted classes as the published code does, see
            :func:`sfseg.ops.class_mix.class_mask`.
        propagate: ``sum``: one backward pass of all losses; ``each``: one after each forward pass
            of the student, as the published code does, which frees its graph before the next. The
            gradients are the same; all that follows, such as clipping, sees their sum.
        **shared: see :class:`MaskedConsistency`.

    Raises:
        ConfigError: the network has an auxiliary head, or the task none of the things.
        ValueError: a number out of its range, or source crops smaller than the target's.
    """

    is_taught = True

    def __init__(
        self,
        *,
        feature_distance: float = 0.0,
        things: Sequence[str] = THINGS,
        imagenet: nn.Module | None = None,
        reference_quirks: bool = False,
        propagate: Propagate = "sum",
        **shared: Unpack[SharedMasked],
    ) -> None:
        require_one_head(shared["network"])
        super().__init__(**shared)
        require_weights(feature_distance=feature_distance)
        require_options(propagate=(propagate, Propagate))
        crops = [shared["plan"][f"{domain}_view"].crop for domain in ("source", "target")]
        if any(theirs < mine for theirs, mine in zip(*crops, strict=True)):
            raise ValueError(
                f"data.source_view.crop must be at least as large as the target's, from which "
                f"pixels go there, got {list(crops[0])} and {list(crops[1])}; set it, or "
                "data.target_crop"
            )
        self.reference_quirks = reference_quirks
        self.propagate: Propagate = propagate
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

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on labelled images of the source and unlabelled ones of the target."""
        source, target = batch["source"], batch["target"]
        terms = self.source_terms(source)
        self.end_pass(terms)
        labelled, valid = self.pseudo_labels(target), valid_pixels(target)
        terms["mixed"] = self.loss(self.mix(source, labelled, valid), valid)
        if self.masked:
            self.end_pass(terms)
            terms |= self.masked_terms(batch, labelled)
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

    def mix(self, source: Batch, target: Labelled, valid: Tensor | None) -> Labelled:
        """Target images with all pixels of half of the classes of a source image each.

        Of source crops that are larger a window is taken, at a place that is drawn.
        """
        image, label, shown = window(source, (target.label.shape[-2], target.label.shape[-1]))
        taken = class_mask(
            label, num_classes=self.labels.num_classes, of_batch=self.reference_quirks,
            valid=shown if valid is None else shown & valid,
        )  # fmt: skip
        return Labelled(
            torch.where(taken[:, None], image, target.image),
            torch.where(taken, label, target.label),
            torch.where(taken, 1.0, target.weight),
        )

    def loss(self, images: Labelled, valid: Tensor | None) -> Tensor:
        """Weighted cross-entropy of the student on a strong view, over the number of all pixels."""
        view = strong(images.image, self.network, colour=self.colour, hue=self.hue, valid=valid)
        return weighted_loss(self.network, view, images, valid)

    def end_pass(self, terms: dict[str, Tensor]) -> None:
        """Propagate what a forward pass has added to the terms, if ``each`` is to be by itself.

        The terms stay as values, so that the loss of the last pass, which Lightning propagates, is
        the sum of all. Of several processes that one alone exchanges gradients, which are the sum
        of all passes by then: before the step's function returns, DDP expects none.
        """
        if self.propagate == "sum":
            return
        loss = self.total(terms) / self.trainer.accumulate_grad_batches
        with torch.autocast(self.device.type, enabled=False):
            self.trainer.strategy.backward(loss, None)
        terms.update({name: term.detach() for name, term in terms.items()})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        is_first = (self.iteration - 1) % self.trainer.accumulate_grad_batches == 0
        if self.propagate == "each" and is_first:
            self.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Lightning comes here when the last pass is to be propagated: too late for the others."""
        if self.propagate == "sum":
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)
