"""Pseudo-labels of whole images by a model that stays as it is."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sfseg.checks import require_options
from sfseg.methods.evaluation import Evaluation
from sfseg.modes import evaluating
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
            images, that gets no label; 0 keeps all (Uni-UVPT), 0.66 is Generalize then Adapt's.
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
        require_options(**{"pseudo_labels.rule": (self.rule, Rule)})
        if not 0 <= self.discard < 1:
            raise ValueError(f"pseudo_labels.discard must be in [0, 1), got {self.discard}")
        if not 0 < self.portion <= 1:
            raise ValueError(f"pseudo_labels.portion must be in (0, 1], got {self.portion}")

    @property
    def keeps_all(self) -> bool:
        """Whether every pixel gets a label, which needs no thresholds."""
        return self.rule == "confident" and not self.discard

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
    left_out: Collection[int] = (),
) -> None:
    """Fill a new store with the most likely class of every pixel.

    It takes one pass over the images where :func:`select_labels`, which leaves some out, takes two.

    Args:
        model: predicts by its own protocol.
        batches: one image each, at the size that labels are kept at.
        folder: of the new store.
        identity: what the labels are for.
        device: where the model runs.
        context: of its forward passes, such as autocast.
        left_out: images without a batch, which are IGNORE everywhere.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: an image cannot be read, or the disk is full.
    """
    model.to(device).eval()
    with PseudoLabelStore.create(folder, identity, durable=False) as store, context:
        _leave_out(store, identity, left_out)
        for batch in _reported(batches, "pseudo-labels", len(identity.names)):
            logits = model.inference(model, batch["image"].to(device))
            label = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
            store.write(Patch(int(batch["index"]), label))
        store.commit()


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

    Arguments are those of :func:`label_images`; but ``batches`` makes the batches, for two passes.

    Raises:
        ConfigError: the folder holds something already, which stays as it is.
        DataError: an image cannot be read, or the disk is full.
    """
    with PseudoLabelStore.create(folder, identity, durable=False) as store:
        _leave_out(store, identity, left_out)
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
        for batch in _reported(batches(), purpose, len(store)):
            logits = predict(model, batch["image"].to(model.device))
            yield int(batch["index"]), logits.float().softmax(dim=1)

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


def _reported(batches: Iterable[Batch], purpose: str, images: int) -> Iterator[Batch]:
    """The batches; now and then the log says how many have been dealt with."""
    shown = time.monotonic()
    for done, batch in enumerate(batches):
        yield batch
        if time.monotonic() - shown > REPORT_SECONDS:
            shown = time.monotonic()
            log.info("%s: %d of %d images", purpose, done + 1, images)


def _leave_out(store: PseudoLabelStore, identity: Identity, images: Collection[int]) -> None:
    for index in images:
        store.write(Patch(index, np.full(identity.sizes[index], IGNORE, np.uint8)))
