"""Pseudo-labels of whole images by a model that stays as it is."""

import logging
import time
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfseg.methods.evaluation import Evaluation
from sfseg.ops.confidence import class_quantiles, confidence_histogram
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE, Batch

log = logging.getLogger(__name__)
REPORT_SECONDS = 10.0
LEVELS = 256
"""Of confidence in a store; a histogram of as many parts has one for each."""


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
