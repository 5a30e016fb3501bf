"""Pseudo-labels of whole images by a model that stays as it is."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sfseg.methods.evaluation import Evaluation
from sfseg.modes import evaluating
from sfseg.ops.confidence import class_quantiles, confidence_histogram
from sfseg.ops.inference import Inference
from sfseg.ops.selection import (
    class_balanced_label,
    confident_label,
    count_doubts,
    empty_histogram,
    top_thresholds,
    united_label,
)
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE, Batch

log = logging.getLogger(__name__)
REPORT_SECONDS = 10.0
LEVELS = 256
"""Of confidence in a store; a histogram of as many parts has one for each."""
Rule = Literal["confident", "cbst", "ld"]


@dataclass(frozen=True)
class Selection:
    """Which pixels of a model's predictions become labels.

    ``confident`` takes the most likely class of the most confident pixels of each class, all by
    default. ``cbst`` weighs classes by their thresholds (:func:`class_balanced_label`). ``ld``
    adds each image's most confident pixels to those of each class (:func:`united_label`).

    Args:
        rule: one of these.
        discard: of ``confident``: share of each class's pixels, the least confident of all
            images, that gets no label; 0.66 is Generalize then Adapt's.
        portion: of ``cbst`` and ``ld``: share of each class's pixels, and of ``ld`` each image's,
            the most confident, in the first round.
        flip: mirrored images are predicted too, whatever the evaluation does.

    Raises:
        ValueError: an unknown rule, a share out of its range.
    """

    rule: Rule = "confident"
    discard: float = 0.0
    portion: float = 0.2
    flip: bool = False

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(
                f"pseudo_labels.rule must be one of {', '.join(get_args(Rule))}, got {self.rule!r}"
            )
        if not 0 <= self.discard < 1:
            raise ValueError(f"pseudo_labels.discard must be in [0, 1), got {self.discard}")
        if not 0 < self.portion <= 1:
            raise ValueError(f"pseudo_labels.portion must be in (0, 1], got {self.portion}")

    def grown(self, by: float, *, largest: float) -> "Selection":
        """With a larger portion; ``discard`` stays."""
        return replace(self, portion=min(self.portion + by, largest))

    def protocol(self, inference: Inference) -> Inference:
        """How images are predicted, given how they are in evaluation."""
        return replace(inference, flip=True) if self.flip else inference

    def thresholds(self, histogram: Tensor) -> Tensor:
        """Confidence of each class (K,) from :func:`sfseg.ops.selection.count_doubts`."""
        share = 1 - self.discard if self.rule == "confident" else self.portion
        return top_thresholds(histogram, share)

    def labels(self, probability: Tensor, threshold: Tensor) -> Tensor:
        """Labels (B, H, W) of pixels with probabilities (B, K, H, W), IGNORE for none."""
        if self.rule == "cbst":
            return class_balanced_label(probability, threshold)
        if self.rule == "ld":
            return united_label(probability, threshold, self.portion)
        return confident_label(probability, threshold)


@torch.no_grad()
def label_images(
    model: Evaluation,
    batches: Iterable[Batch],
    folder: Path,
    identity: Identity,
    *,
    device: torch.device,
    context: AbstractContextManager[object],
    discard: float = 0.0,
    left_out: Collection[int] = (),
) -> None:
    """Fill a new store with the most likely class of every pixel.

    Args:
        model: predicts by its own protocol.
        batches: one image each, at the size that labels are kept at.
        folder: of the new store.
        identity: what the labels are for.
        device: where the model runs.
        context: of its forward passes, such as autocast.
        discard: share of each class's pixels, the least confident of all images, that become
            IGNORE; 0 keeps all (Uni-UVPT), 0.66 is Generalize then Adapt's.
        left_out: images without a batch, which are IGNORE everywhere.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: an image cannot be read, or the disk is full.
        ValueError: ``discard`` outside [0, 1).
    """
    if not 0 <= discard < 1:
        raise ValueError(f"pseudo_labels.discard must be in [0, 1), got {discard}")
    model.to(device).eval()
    classes = len(identity.classes)
    histogram = torch.zeros(classes, LEVELS, dtype=torch.int64)
    shown = time.monotonic()
    make = PseudoLabelStore.create
    with make(folder, identity, with_confidence=discard > 0, durable=False) as store, context:
        for index in left_out:
            nothing = np.full(identity.sizes[index], IGNORE, np.uint8)
            store.write(Patch(index, nothing, np.zeros_like(nothing) if discard else None))
        for done, batch in enumerate(batches):
            probability = model.inference(model, batch["image"].to(device)).float().softmax(dim=1)
            confidence, label = (part.cpu() for part in probability.max(dim=1))
            store.write(_patch(batch["index"], label, confidence if discard else None))
            if discard:
                kept = (confidence * 255).round() / 255
                histogram += confidence_histogram(kept, label, num_classes=classes, bins=LEVELS)
            if time.monotonic() - shown > REPORT_SECONDS:
                shown = time.monotonic()
                log.info("pseudo-labels: %d of %d images", done + 1, len(identity.names))
        if discard:
            _discard(store, class_quantiles(histogram, discard))
        store.commit()


def _patch(index: Tensor, label: Tensor, confidence: Tensor | None) -> Patch:
    return Patch(
        int(index),
        label[0].to(torch.uint8).numpy(),
        None if confidence is None else confidence[0].numpy(),
    )


def _discard(store: PseudoLabelStore, threshold: Tensor) -> None:
    """Labels whose confidence is below their class's threshold become IGNORE.

    Those at the threshold stay, so that a class of one confidence does not vanish.
    """
    limit = np.zeros(IGNORE + 1, np.uint8)
    limit[: len(threshold)] = np.nan_to_num(threshold.numpy() * LEVELS, nan=0.0)
    for index in range(len(store)):
        label, confidence = store.read(index)
        assert confidence is not None
        store.write(Patch(index, np.where(confidence < limit[label], np.uint8(IGNORE), label)))


def select_labels(
    model: Evaluation,
    batches: Callable[[], Iterable[Batch]],
    folder: Path,
    identity: Identity,
    selection: Selection,
    *,
    device: torch.device,
    context: AbstractContextManager[object],
    left_out: Collection[int] = (),
) -> None:
    """Fill a new store with selected labels, see :func:`relabel`.

    Args:
        model: predicts by its own protocol, or mirrored too.
        batches: makes batches of one image each, at the size that labels are kept at.
        folder: of the new store.
        identity: what the labels are for.
        selection: of pixels.
        device: where the model runs.
        context: of its forward passes, such as autocast.
        left_out: images without a batch, which are IGNORE everywhere.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: an image cannot be read, or the disk is full.
    """
    with PseudoLabelStore.create(folder, identity, durable=False) as store:
        for index in left_out:
            store.write(Patch(index, np.full(identity.sizes[index], IGNORE, np.uint8)))
        relabel(model.to(device), batches, store, selection, context=context)
        store.commit()


@torch.no_grad()
def relabel(
    model: Evaluation,
    batches: Callable[[], Iterable[Batch]],
    store: PseudoLabelStore,
    selection: Selection,
    *,
    context: AbstractContextManager[object] | None = None,
) -> float:
    """Replace the labels of images by selected predictions; returns the share that has one.

    Images are predicted twice, for the thresholds and for the labels: nothing but labels is kept.
    The model is in evaluation mode meanwhile; afterwards each of its parts is in the mode it was.

    Args:
        model: predicts by its own protocol, or mirrored too.
        batches: makes batches of one image each, at the size that labels are kept at.
        store: of the labels.
        selection: of pixels.
        context: of the forward passes, such as autocast.

    Raises:
        DataError: an image cannot be read, or the disk is full.
    """
    predict, classes = selection.protocol(model.inference), model.labels.num_classes

    def probabilities(purpose: str) -> Iterator[tuple[int, Tensor]]:
        shown = time.monotonic()
        for done, batch in enumerate(batches()):
            logits = predict(model, batch["image"].to(model.device))
            yield int(batch["index"]), logits.float().softmax(dim=1)
            if time.monotonic() - shown > REPORT_SECONDS:
                shown = time.monotonic()
                log.info("%s: %d of %d images", purpose, done + 1, len(store))

    labelled = pixels = 0
    with evaluating(model), nullcontext() if context is None else context:
        histogram = empty_histogram(classes, device=model.device)
        for _, probability in probabilities("thresholds of pseudo-labels"):
            confidence, label = probability.max(dim=1)
            count_doubts(histogram, confidence, label)
        threshold = selection.thresholds(histogram)
        for index, probability in probabilities("pseudo-labels"):
            chosen = selection.labels(probability, threshold)[0].cpu().numpy()
            store.write(Patch(index, chosen))
            labelled, pixels = labelled + int((chosen != IGNORE).sum()), pixels + chosen.size
    return labelled / max(pixels, 1)
