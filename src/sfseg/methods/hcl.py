"""HCL: historical contrastive learning (Huang et al., NeurIPS 2021, arXiv:2110.03374)."""

from typing import Any, NamedTuple, Unpack, cast

import torch
from torch import Tensor

from sfseg.checks import require_positive, require_shares, require_weights, require_whole
from sfseg.errors import ConfigError
from sfseg.methods.base import Method, Shared
from sfseg.networks.heads.head import Head, require_head
from sfseg.networks.norm_of_pictures import statistics_of_pictures
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Teacher
from sfseg.ops.contrastive import (
    historical_agreement,
    historical_contrast,
    of_pixels,
    pixel_counts,
    reliability,
    weighted_cross_entropy,
)
from sfseg.ops.masking import strong_view
from sfseg.ops.padding import of_pictures, valid_pixels
from sfseg.ops.pixels import at_positions, random_positions
from sfseg.types import IGNORE, Batch, StepOutput, TrainingBatch

MEMORY = 0.9
"""Of the weights of absent classes, per iteration."""


class View(NamedTuple):
    """What a network says of images.

    logits: (B, K, H, W) of the head and, if asked for, of the auxiliary head.
    features: (B, C, h, w) that the head's classifier gets, with the padding of the network.
    """

    logits: list[Tensor]
    features: Tensor


class HCL(Method):
    """What a model believed before is compared with what it believes now, by category and instance.

    Pseudo-labels train the student the more, the more its moving average agrees with a historical
    copy (HCCD); and features of the student are drawn to the average's features of pixels with the
    same label (HCID). Both are as in the published code: the divergence is KL(historical ||
    average), and :func:`sfseg.ops.contrastive.historical_contrast` is its form of the other.

    The student sees distorted colours, the average and the historical copy the image itself, pixel
    for pixel. In the code the student's crop has another scale, and consistency and loss belong to
    pixels that do not quite match. Features are what the head's classifier gets, there those of a
    projector on the last map but one; pairs are those of pixels drawn from each image, there of
    all. Which classes are rare is counted in each image, there in the batch. The code's
    ``only-hard-label`` is read but never used: all pixels train.

    Args:
        aux_weight: of the same loss on the auxiliary head; 0.5 in the code, 0 without such a head.
        contrast_weight: of the instance discrimination; 0 leaves it out.
        temperature: of its softmax.
        pixels: of each image that are compared with each other.
        momentum: of the moving average.
        refresh: iterations after which the student overwrites average and historical copy, later
            where that step is skipped; until the first time the latter is the source model. 0:
            never.
        class_balance: weigh rare and absent classes.
        rare_weight: of a class with few pixels in an image; also of one that no image of the batch
            has, as a moving average over batches that multiplies the former.
        rare_share: of an image's pixels below which a class is rare; 64^2 of a crop in the code.
        colour: strength of :func:`sfseg.ops.masking.strong_view`; 0 leaves the colours.
        **shared: see :class:`Shared`.

    Raises:
        ConfigError: there is no auxiliary head to train, or the head shows no features.
        ValueError: a number out of its range.
    """

    absence: Tensor

    def __init__(
        self,
        *,
        aux_weight: float = 0.0,
        contrast_weight: float = 0.5,
        temperature: float = 0.07,
        pixels: int = 256,
        momentum: float = 0.996,
        refresh: int = 300,
        class_balance: bool = True,
        rare_weight: float = 7.0,
        rare_share: float = 1 / 32,
        colour: float = 0.2,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        require_weights(
            aux_weight=aux_weight, contrast_weight=contrast_weight, rare_weight=rare_weight
        )
        require_whole(0, refresh=refresh)
        require_whole(2, pixels=pixels)
        require_shares(momentum=momentum, rare_share=rare_share, colour=colour)
        require_positive(temperature=temperature)
        network = cast(Segmenter, self.network)
        if aux_weight and network.aux_head is None:
            raise ConfigError(
                f"aux_weight must be 0 for a network without an auxiliary head, got {aux_weight}; "
                "choose backbone=resnet101_deeplabv2_multi or set backbone.aux"
            )
        if network.aux_head is not None and not aux_weight:
            network.freeze("aux_head")
        if contrast_weight:
            require_head(network.head, "hcl")
        self.aux_weight, self.contrast_weight = aux_weight, contrast_weight
        self.temperature, self.pixels = temperature, pixels
        self.momentum, self.refresh, self.colour = momentum, refresh, colour
        self.class_balance = class_balance
        self.rare_weight, self.rare_share = rare_weight, rare_share
        self.teacher, self.historical = Teacher(network), Teacher(network)
        self.register_buffer("absence", torch.ones(self.labels.num_classes))
        self._counts: Tensor | None = None
        self._is_due = False

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        """One step on images of the target and their pseudo-labels."""
        target = batch["target"]
        image, label = target["image"].float() / 255, target["pseudo_label"]
        valid = valid_pixels(target)
        with torch.no_grad():
            average = self._view(self.teacher.network, image)
            before = self._view(self.historical.network, image)
        with statistics_of_pictures(self.network, valid):
            own = self._view(self.network, self._distorted(image, valid))
        weight, losses = self._class_weight(label, valid), []
        for mine, now, then in zip(own.logits, average.logits, before.logits, strict=True):
            parts = (mine, label, weight * historical_agreement(now, then))
            losses.append(weighted_cross_entropy(*(of_pictures(part, valid) for part in parts)))
        terms = {"labels": losses[0]}
        if self.aux_weight:
            terms["auxiliary"] = self.aux_weight * losses[1]
        if self.contrast_weight:
            terms["contrast"] = self.contrast_weight * self._contrast(own, average, target, valid)
        return self.output(terms, own.logits[0].detach().float().softmax(dim=1))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.refresh and self.iteration % self.refresh == 0:
            self._is_due = True  # until a step is not skipped
        if self.step.is_skipped:
            return
        if self._counts is not None:
            counts = self.trainer.strategy.reduce(self._counts, reduce_op="sum")
            weight = torch.where(cast(Tensor, counts) == 0, self.rare_weight, 1.0)
            self.absence.lerp_(weight.to(self.absence.dtype), 1 - MEMORY)
        if self.iteration % self.trainer.accumulate_grad_batches == 0:
            self.teacher.follow(self.network, self.momentum)
        if self._is_due:
            self.teacher.follow(self.network, 0.0)
            self.historical.follow(self.network, 0.0)
            self._is_due = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["refresh_is_due"] = self._is_due

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._is_due = bool(checkpoint.get("refresh_is_due"))  # not in those of earlier versions

    def _view(self, module: torch.nn.Module, image: Tensor) -> View:
        network = cast(Segmenter, module)
        if not self.contrast_weight:
            # Called, so that a compiled network is not passed by.
            seen = network(image, levels=True) if self.aux_weight else (network(image),)
            return View([logits.float() for logits in seen], image)
        head, maps = cast(Head, network.head), network.features(image)
        features = head.features(maps)
        scores = [head.classify(features, maps)]
        if network.aux_head is not None and self.aux_weight:
            scores.append(network.aux_head([maps[network.aux_level]]))
        logits = [network.enlarge(own, image).float() for own in scores]
        return View(logits, features)

    def _distorted(self, image: Tensor, valid: Tensor | None) -> Tensor:
        return strong_view(image, strength=self.colour, valid=valid) if self.colour else image

    def _class_weight(self, label: Tensor, valid: Tensor | None) -> Tensor:
        """Weight (B, H, W) of every pixel by its class."""
        if not self.class_balance:
            return torch.ones_like(label, dtype=torch.float32)
        counts = pixel_counts(label, num_classes=len(self.absence))
        self._counts = counts.sum(dim=0).float()
        pixels = label[0].numel() if valid is None else valid.sum(dim=(1, 2))[:, None]
        is_rare = counts < self.rare_share * pixels
        # Of the batches before: the shares of this one may be known to other processes only.
        return of_pixels(torch.where(is_rare, self.rare_weight, 1.0) * self.absence, label)

    def _contrast(self, own: View, average: View, target: Batch, valid: Tensor | None) -> Tensor:
        """The instance discrimination among cells drawn from each image."""
        network, image = cast(Segmenter, self.network), target["image"]
        label = network.at_cells(target["pseudo_label"], own.features, outside=IGNORE)
        trust = network.at_cells(reliability(average.logits[0]), own.features, outside=1)
        maps = (own.features, average.features, label[:, None], trust[:, None])
        shown = [network.without_padding(part, image) for part in maps]
        cells = network.cells_of_pictures(valid, own.features)
        places = random_positions(shown[0], count=self.pixels, valid=cells)
        mine, theirs, label, trust = (at_positions(part, places) for part in shown)
        return historical_contrast(
            mine, theirs, label[..., 0].long(), trust[..., 0], temperature=self.temperature
        )
