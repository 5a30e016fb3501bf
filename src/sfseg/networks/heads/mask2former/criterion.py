"""The loss of Mask2Former's queries: one for each true mask, the others for none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Integer
from torch import Tensor

from sfseg.checks import (
    require_at_least,
    require_options,
    require_shares,
    require_weights,
    require_whole,
)
from sfseg.networks.heads.mask2former.mask_decoder import Prediction
from sfseg.ops.mask_loss import (
    Targets,
    assigned,
    binary_cross_entropy,
    class_masks,
    dice,
    pairwise_binary_cross_entropy,
    pairwise_dice,
)
from sfseg.ops.mask_points import sample, uncertain_points
from sfseg.ops.processes import how_many, sum_of_processes
from sfseg.types import IGNORE

Void = Literal["outside", "ignored"]


class Sums(NamedTuple):
    """Losses of predictions, summed, and what they are to be divided by; sums of images add up.

    classes: weighted cross-entropy of all queries.
    cross_entropy, dice: of matched masks.
    weight: of all queries of one layer.
    masks: number of true masks.
    """

    classes: Tensor
    cross_entropy: Tensor
    dice: Tensor
    weight: Tensor
    masks: Tensor

    def plus(self, other: "Sums") -> "Sums":
        """Those of both."""
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class MaskCriterion:
    """Hungarian matching, and the losses of the pairs (Cheng et al., CVPR 2022, arXiv:2112.01527).

    Every layer's predictions are matched and scored by themselves. The true masks are those of the
    classes of a label map, one each. What sums are divided by is counted over all processes. An
    image without any label does not count; in the release its queries learn that nothing is there.

    Args:
        points: at which masks are compared.
        oversample: points drawn for each one of the loss, to choose from.
        uncertain_share: share of the loss's points that are chosen where masks are uncertain.
        class_weight: lambda of the classes' cross-entropy, in the cost of a pair and in the loss.
        mask_weight: the same of the masks' binary cross-entropy.
        dice_weight: the same of their dice loss.
        no_object: weight of a query without a mask in the classes' cross-entropy.
        void: what pixels without a label are to all masks: ``outside``, as in the release of
            CLOUDS, or ``ignored``. Padding is ignored.

    Raises:
        ValueError: a number out of its range.
    """

    points: int = 12544
    oversample: float = 3.0
    uncertain_share: float = 0.75
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1
    void: Void = "outside"

    def __post_init__(self) -> None:
        require_whole(1, points=self.points)
        require_at_least(1, oversample=self.oversample)
        require_shares(uncertain_share=self.uncertain_share)
        require_weights(
            class_weight=self.class_weight, mask_weight=self.mask_weight,
            dice_weight=self.dice_weight, no_object=self.no_object,
        )  # fmt: skip
        require_options(void=(self.void, Void))

    def sums(
        self,
        predictions: Sequence[Prediction],
        label: Integer[Tensor, "B H W"],
        shown: Bool[Tensor, "B H W"] | None = None,
    ) -> Sums:
        """Losses of all layers, in single precision.

        Args:
            predictions: of each layer.
            label: class ids of the image as the backbone sees it: padded.
            shown: its pixels that belong to pictures; None: all.
        """
        num_classes = predictions[-1].classes.shape[-1] - 1
        targets = [class_masks(own, num_classes) for own in label]
        counted = shown
        if self.void == "ignored":
            labelled = label != IGNORE
            counted = labelled if shown is None else labelled & shown
        with torch.autocast(label.device.type, enabled=False):
            layers = [
                self._layer(Prediction(*(part.float() for part in layer)), targets, counted)
                for layer in predictions
            ]
        classes, cross_entropy, dices = (
            torch.stack([layer[part] for layer in layers]).sum() for part in range(3)
        )
        return Sums(classes, cross_entropy, dices, layers[-1].weight, layers[-1].masks)

    def terms(self, sums: Sums) -> dict[str, Tensor]:
        """Weighted terms of the loss by name, of the sums of a process's images.

        Every process calls it. Their mean, which training takes, is the loss of all images.
        """
        total = sum_of_processes(torch.stack([sums.weight, sums.masks]).detach()) / how_many()
        weight, masks = total[0].clamp_min(torch.finfo(total.dtype).tiny), total[1].clamp_min(1)
        return {
            "mask_classes": self.class_weight * sums.classes / weight,
            "mask_cross_entropy": self.mask_weight * sums.cross_entropy / masks,
            "mask_dice": self.dice_weight * sums.dice / masks,
        }

    def _layer(self, layer: Prediction, targets: Sequence[Targets], counted: Tensor | None) -> Sums:
        queries, true, where = [], [], []
        has_label = torch.tensor([bool(len(own.classes)) for own in targets])
        wanted = layer.classes.new_full(
            layer.classes.shape[:2], layer.classes.shape[-1] - 1, dtype=torch.long
        )
        for image, own in enumerate(targets):
            seen = None if counted is None else counted[image]
            mine, theirs = self._matched(layer.classes[image], layer.masks[image], own, seen)
            wanted[image, mine] = own.classes[theirs]
            queries.append(layer.masks[image, mine])
            true.append(own.masks[theirs])
            where.append(torch.full_like(mine, image))
        weight = torch.where(wanted == layer.classes.shape[-1] - 1, self.no_object, 1.0)
        weight = weight * has_label.to(weight)[:, None]
        each = F.cross_entropy(layer.classes.flatten(0, 1), wanted.flatten(), reduction="none")
        classes = (each * weight.flatten()).sum()
        masks, images = torch.cat(queries), torch.cat(where)
        points = uncertain_points(
            masks, self.points, oversample=self.oversample, uncertain_share=self.uncertain_share
        )
        logits = sample(masks[:, None], points)[:, 0]
        inside = sample(torch.cat(true)[:, None].to(logits), points)[:, 0]
        seen = None
        if counted is not None:
            seen = sample(counted[images, None].to(logits), points, "nearest")[:, 0]
        return Sums(
            classes,
            binary_cross_entropy(logits, inside, seen).sum(),
            dice(logits, inside, seen).sum(),
            weight.sum(),
            weight.new_tensor(len(masks)),
        )

    @torch.no_grad()
    def _matched(
        self, classes: Tensor, masks: Tensor, targets: Targets, counted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        points = torch.rand(1, self.points, 2, device=masks.device, dtype=masks.dtype)
        logits = sample(masks[None], points)[0]
        inside = sample(targets.masks[None].to(logits), points)[0]
        seen = None
        if counted is not None:
            seen = sample(counted[None, None].to(logits), points, "nearest")[0, 0]
        cost = (
            self.class_weight * -classes.softmax(dim=-1)[:, targets.classes]
            + self.mask_weight * pairwise_binary_cross_entropy(logits, inside, seen)
            + self.dice_weight * pairwise_dice(logits, inside, seen)
        )
        return assigned(cost)
