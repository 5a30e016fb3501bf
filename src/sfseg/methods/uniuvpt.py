"""Uni-UVPT (Ma et al., NeurIPS 2023): a frozen source model whose prompts learn from itself."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor

from sfseg.checks import require_options, require_weights
from sfseg.errors import ConfigError
from sfseg.methods.base import Shared
from sfseg.methods.early_learning import EarlyLearningMethod
from sfseg.networks.adapters.prompt_adapter import PromptedBackbone, Variant
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.consistency import (
    Normalize,
    at_one_size,
    feature_consistency,
    log_mixture,
    prediction_consistency,
    released_feature_consistency,
    released_mixture,
    released_prediction_consistency,
    resized,
    scaled,
)
from sfseg.ops.entropy import robust_entropy
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.ops.padding import continued, of_pictures, valid_cells, valid_pixels
from sfseg.types import IGNORE, StepOutput, TrainingBatch

Correction = Literal["online", "offline", "elr", "none"]
RELEASED_SCALES = 3


class UniUVPT(EarlyLearningMethod):
    """Prompts and head learn from pseudo-labels and from the agreement of three scales.

    The loss is Lovasz-softmax and entropy on the image itself, beta times the divergence of its
    predictions at all scales, and alpha times the distance of the features that the prompts have
    adapted. Pseudo-labels are corrected by :class:`sfseg.callbacks.label_correction`, which reads
    what a step returns: the mean prediction of the scales and its confidence.

    Args:
        variant: ``paper``, or the arithmetic of the published code, ``release``.
        correction: of pseudo-labels (Table 3): ``online``, ``offline``, ``elr`` or ``none``.
        scales: factors of the image size; one of them is 1. ``release`` takes that first and the
            others by size, whatever their order here: its learnt weights belong to 1, 0.5 and 2.
        alpha: weight of the feature consistency; 0 leaves it out (Table 4).
        beta: weight of the prediction consistency, likewise.
        normalize: of :func:`sfseg.ops.consistency.feature_consistency`.
        entropy_weight: of the robust entropy.
        elr_weight: of the regulariser that ``correction=elr`` adds; see
            :class:`EarlyLearningMethod`.
        elr_momentum: of its running means of predictions.
        **shared: see :class:`Shared`.

    Raises:
        ValueError: an unknown variant or correction, scales without 1 or not three of them for
            ``release``, negative weights.
    """

    elr_setting = "method.correction=elr"

    def __init__(
        self,
        *,
        variant: Variant = "paper",
        correction: Correction = "online",
        scales: Sequence[float] = (0.5, 1.0, 2.0),
        alpha: float = 1e-3,
        beta: float = 1.0,
        normalize: Normalize = "positions",
        entropy_weight: float = 5e-3,
        elr_weight: float = 3.0,
        elr_momentum: float = 0.7,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            elr_weight=elr_weight,
            elr_momentum=elr_momentum,
            is_regularized=correction == "elr",
            **shared,
        )
        require_options(
            variant=(variant, Variant),
            correction=(correction, Correction),
            normalize=(normalize, Normalize),
        )
        if 1.0 not in scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive and one of them 1, got {list(scales)}")
        require_weights(alpha=alpha, beta=beta, entropy_weight=entropy_weight)
        if variant == "release" and len(scales) != RELEASED_SCALES:
            raise ValueError(
                f"scales must be {RELEASED_SCALES} for variant=release, which learns a weight of "
                f"each, got {list(scales)}; take as many, or variant=paper"
            )
        self.variant, self.correction = variant, correction
        self.scales = tuple(scales)
        if variant == "release":
            self.scales = tuple(sorted(scales, key=lambda scale: (scale != 1, scale)))
        self.reference = self.scales.index(1.0)
        self.alpha, self.beta, self.entropy_weight = alpha, beta, entropy_weight
        self.normalize: Normalize = normalize

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        target = batch["target"]
        image, label = target["image"].float() / 255, target["pseudo_label"]
        valid = valid_pixels(target)
        scores, features, cells = self._views(image, valid)
        logits = self._at_image_size(scores, image, align=True)
        own, shown = logits[self.reference], [of_pictures(view, valid) for view in logits]
        terms = {
            "lovasz": lovasz_softmax(own, label),
            "entropy": self.entropy_weight * robust_entropy(shown[self.reference]),
        }
        if self.beta:
            distance = self._prediction_consistency(shown, of_pictures(label, valid))
            terms["predictions"] = self.beta * distance
        if self.alpha:
            stages = [
                self._feature_consistency(views, own_cells)
                for *views, own_cells in zip(*features, cells, strict=True)
            ]
            terms["features"] = self.alpha * torch.stack(stages).sum()
        if self.correction == "elr":
            terms["elr"] = self.early_learning(target, own, valid)
        with torch.no_grad():
            probability = self._probability(scores, image)
        return self.output(terms, probability)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.variant == "release":
            checkpoint["released_scales"] = list(self.scales)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        learnt = checkpoint.get("released_scales")  # not in those of earlier versions
        if self.variant == "release" and learnt != list(self.scales):
            raise ConfigError(
                f"the checkpoint has learnt weights of the scales {learnt or [0.5, 1.0, 2.0]}, in "
                f"this order, and method.variant=release takes them for those of "
                f"{list(self.scales)}; evaluate it, or start anew"
            )

    def _views(
        self, image: Tensor, valid: Tensor | None = None
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor | None]]:
        """Logits, and the adapted features of all stages, of every scale.

        Logits are at image size, but those of ``release`` at the head's own. Of a batch with
        padding both go on there as at the border of the picture; the cells of the features at scale
        1 that belong to pictures come third, None where all do.
        """
        size = (image.shape[-2], image.shape[-1])
        released = self.variant == "release"
        network = cast(Segmenter, self.network)
        all_logits, all_features, all_cells = [], [], []
        for scale in self.scales:
            view, seen, to = image, valid, scaled(size, scale)
            if scale != 1:
                view = resized(continued(image, valid), to, align=released)
            if seen is not None:
                seen = valid_cells(seen, to)
                view = torch.where(seen[:, None], view, network.mean)
            with statistics_of_pictures(network, seen):
                logits, features = network.forward_adapted(view, enlarged=not released)
            logits = logits.float()
            own = network.cells_of_pictures(seen, logits) if released else seen
            logits = continued(logits, own)
            all_logits.append(logits if released else resized(logits, size, align=False))
            cells = [network.cells_of_pictures(seen, stage) for stage in features]
            stages = [continued(*part) for part in zip(features, cells, strict=True)]
            # Padding is another part of each view, and would shift its features.
            all_features.append([network.without_padding(stage, view) for stage in stages])
            all_cells.append(cells)
        return all_logits, all_features, all_cells[self.reference]

    def _at_image_size(self, scores: list[Tensor], image: Tensor, *, align: bool) -> list[Tensor]:
        """Logits of ``release`` in one step, aligned for losses and not for what is predicted."""
        if self.variant == "paper":
            return scores
        network, size = cast(Segmenter, self.network), (image.shape[-2], image.shape[-1])
        return [
            network.enlarge_view(own, scaled(size, scale), size, align_corners=align)
            for own, scale in zip(scores, self.scales, strict=True)
        ]

    def _probability(self, scores: list[Tensor], image: Tensor) -> Tensor:
        """The mean prediction of the scales, by which labels are corrected."""
        if self.variant == "paper":
            return log_mixture(scores, self._mixing()).exp()
        return released_mixture(
            self._at_image_size(scores, image, align=False), weight_logits=self._mixing()
        )

    def _prediction_consistency(self, logits: list[Tensor], label: Tensor) -> Tensor:
        if self.variant == "paper":
            return prediction_consistency(logits)
        return released_prediction_consistency(
            logits, weight_logits=self._mixing(), valid=label != IGNORE, share_mask=True
        )

    def _feature_consistency(self, views: Sequence[Tensor], cells: Tensor | None) -> Tensor:
        if cells is not None:
            align = self.variant == "release"
            alike = at_one_size(views, self.reference, align_corners=align)
            views = [of_pictures(view, cells) for view in alike]
        if self.variant == "paper":
            return feature_consistency(views, reference=self.reference, normalize=self.normalize)
        return released_feature_consistency(views, reference=self.reference)

    def _mixing(self) -> Tensor | None:
        """Logits of the scales' weights, which the published code has and the paper has not."""
        backbone = self.network.backbone
        return backbone.adapter.mixing if isinstance(backbone, PromptedBackbone) else None
