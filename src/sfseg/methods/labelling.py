"""Pseudo-labels of whole images by a model that stays as it is, found by all processes."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfseg.checks import require_options
from sfseg.methods.evaluation import Evaluation
from sfseg.methods.labeller import Labeller, Relabelled
from sfseg.methods.refinement import Refiner, Tally
from sfseg.modes import evaluating
from sfseg.ops.inference import Inference, most_likely
from sfseg.ops.processes import dealt, how_many, in_step, sum_of_processes
from sfseg.ops.selection import (
    class_balanced_label,
    confident_label,
    count_doubts,
    empty_histogram,
    top_thresholds,
    united_label,
)
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.reader import PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE, Batch

log = logging.getLogger(__name__)
REPORT_SECONDS = 10.0
Rule = Literal["confident", "cbst", "ld"]


class Predicted(NamedTuple):
    """Images (B, 3, H, W), their numbers (B,), and a model's logits (B, K, H, W) for them."""

    number: Tensor
    image: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Selection:
    """The rules by confidence, a :class:`Labeller`.

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

    def empty(self, classes: int, device: torch.device) -> Tensor:
        """See :func:`sfseg.ops.selection.empty_histogram`."""
        return empty_histogram(classes, device=device)

    def count(self, histogram: Tensor, probability: Tensor) -> None:
        """See :func:`sfseg.ops.selection.count_doubts`."""
        confidence, label = probability.max(dim=1)
        count_doubts(histogram, confidence, label)

    def thresholds(self, histogram: Tensor) -> Tensor:
        """Confidence of each class (K,)."""
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
def relabel(
    model: Evaluation,
    batches: Callable[[], Iterable[Batch]],
    store: PseudoLabels | None,
    labeller: Labeller,
    *,
    context: AbstractContextManager[object] | None = None,
) -> Relabelled:
    """Replace the labels of images by predictions.

    All processes of a run call it, each with its share of the images; whoever has the store open
    for writing writes the labels of all. They speak to each other once an image, see
    :func:`sfseg.ops.processes.in_step`: nobody waits for as long as a time limit allows.

    Images are predicted twice, for the thresholds and for the labels: nothing but labels is kept.
    Where the model has a refiner, the chosen labels pass it; its points follow from the run's seed
    and the image's number alone.
    The model is in evaluation mode meanwhile; afterwards each of its parts is in the mode it was.

    Args:
        model: predicts by its own protocol, or mirrored too.
        batches: makes this process's batches of one image each, at the size that labels are kept.
        store: of the labels; a reader of it, or None, where another process writes them.
        labeller: chooses pixels.
        context: of the forward passes, such as autocast.

    Raises:
        DataError: an image cannot be read, or the disk is full.
    """
    predict, device = labeller.protocol(model.inference), model.device
    writer = store if isinstance(store, PseudoLabelStore) else None

    def predicted(purpose: str) -> Iterator[Predicted]:
        for batch in _reported(batches(), purpose, 0 if writer is None else len(writer)):
            image = batch["image"].to(device)
            yield Predicted(batch["index"].to(device), image, predict(model, image))

    labelled = pixels = 0
    with evaluating(model), context or nullcontext():
        histogram = threshold = None
        if not labeller.keeps_all:
            own = labeller.empty(model.labels.num_classes, device)
            _count(labeller, own, predicted("thresholds of pseudo-labels"))
            histogram = sum_of_processes(own)
            threshold = labeller.thresholds(histogram)
        chosen = _chosen(labeller, threshold, predicted("pseudo-labels"), model.refiner)
        for image, label in _of_all(chosen, device):
            if writer is not None:
                writer.write(Patch(image, label))
            labelled, pixels = labelled + int((label != IGNORE).sum()), pixels + label.size
    if model.refiner is not None:
        counts = torch.tensor(model.refiner.taken(), device=device)
        tally = Tally(*sum_of_processes(counts).tolist())
        if writer is not None:
            log.info("pseudo-labels: %s", tally)
    return Relabelled(labelled / max(pixels, 1), histogram, threshold)


def _count(labeller: Labeller, histogram: Tensor, images: Iterable[Predicted]) -> None:
    """Count the predictions for this process's images, in step with the others."""
    for one in filter(None, in_step(images, histogram.device)):
        labeller.count(histogram, one.logits.float().softmax(dim=1))


def _chosen(
    labeller: Labeller,
    threshold: Tensor | None,
    images: Iterable[Predicted],
    refiner: Refiner | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers and labels of this process's images; all pixels get one without a threshold."""
    for number, image, logits in images:
        if threshold is None:
            label = most_likely(logits).to(torch.uint8)
        else:
            label = labeller.labels(logits.float().softmax(dim=1), threshold)
        if refiner is not None:
            label = refiner.refine(image, label, number.tolist())
        yield number, label


def _of_all(
    own: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Numbers and labels of the images of all processes."""
    for index, label in dealt(own, (1, torch.long), (3, torch.uint8), device=device):
        yield from zip(index.tolist(), label.cpu().numpy(), strict=True)


def _reported(batches: Iterable[Batch], purpose: str, images: int) -> Iterator[Batch]:
    """The batches; now and then the log of the process that writes says how many are done."""
    shown = time.monotonic()
    for done, batch in enumerate(batches):
        yield batch
        if images and time.monotonic() - shown > REPORT_SECONDS:
            shown = time.monotonic()
            together = min((done + 1) * how_many(), images)
            log.info("%s: %d of %d images", purpose, together, images)
