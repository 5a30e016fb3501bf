"""Segmentation scores from one confusion matrix per evaluation set."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from sfseg.labels import LabelSpace
from sfseg.types import IGNORE

CODES = IGNORE + 1
MEAN = "mean"
"""Name of the mean over evaluation sets, among the scores."""
OWN = ("target", "source", MEAN)
"""Domains that are no evaluation sets by name."""


class ConfusionMatrix(Metric):
    """Pixel counts by (label, prediction), exact over any number of processes.

    One histogram of the uint8 codes ``label * 2^n + prediction`` on the device; ignored
    pixels are counted too and sliced off, which is cheaper than masking them out.

    Args:
        num_classes: K, at most 253.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if not 2 <= num_classes < IGNORE - 1:
            raise ValueError(f"num_classes must be in [2, 253], got {num_classes}")
        self.num_classes = num_classes
        self.stride = 1 << (num_classes - 1).bit_length()
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count one batch.

        Args:
            prediction: class ids of any shape, uint8, each below ``num_classes``.
            label: uint8 class ids of the same shape, IGNORE where void.

        Raises:
            ValueError: shapes or types differ from this, or an id is no class.
        """
        if prediction.shape != label.shape or {prediction.dtype, label.dtype} != {torch.uint8}:
            raise ValueError(
                "prediction and label must be uint8 of one shape, got "
                f"{prediction.dtype} {tuple(prediction.shape)} and "
                f"{label.dtype} {tuple(label.shape)}"
            )
        classes = self.num_classes
        largest = int(prediction.max()) if prediction.numel() else 0
        if largest >= classes:
            raise ValueError(f"prediction must be class ids below {classes}, got {largest}")
        wide = torch.int16 if CODES * self.stride <= 1 << 15 else torch.int32
        code = label.to(wide).mul_(self.stride).add_(prediction).flatten()
        histogram = torch.bincount(code, minlength=CODES * self.stride)
        table = histogram.view(CODES, self.stride)
        strays = int(table[classes:IGNORE].sum())
        if strays:
            raise ValueError(
                f"label must be class ids below {classes} or {IGNORE} (void), but {strays} "
                "pixels are neither; check the id mapping of the data"
            )
        self.counts += table[:classes, :classes]

    def compute(self) -> Tensor:
        """(K, K) int64, rows are labels, summed over all processes."""
        return self.counts


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; shares in [0, 1], NaN where undefined.

    iou: per class, NaN where neither label nor prediction has the class.
    accuracy: per class, share of its labelled pixels that are right.
    miou: subset name -> mean IoU over its classes that occur; ``mIoU`` first.
    pixel_accuracy: share of all labelled pixels that are right.
    mean_accuracy: mean of ``accuracy`` over the classes that occur in the labels.
    pixels: labelled pixels per class.
    counts: (K, K) pixels, rows are labels; None of a mean over several sets, and where none were
        kept.
    """

    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    miou: Mapping[str, float]
    pixel_accuracy: float
    mean_accuracy: float
    pixels: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, counts: Tensor, labels: LabelSpace) -> "Scores":
        """Scores of a (K, K) confusion matrix with labels in rows."""
        counts = counts.cpu()
        right = counts.diagonal().double()
        labelled = counts.sum(dim=1)
        union = labelled + counts.sum(dim=0) - counts.diagonal()
        # 0 / 0 is NaN by IEEE: exactly the class that occurs nowhere.
        iou = (right / union).tolist()
        accuracy = (right / labelled).tolist()
        return cls(
            iou=tuple(iou),
            accuracy=tuple(accuracy),
            miou={name: mean([iou[k] for k in ids]) for name, ids in labels.subsets.items()},
            pixel_accuracy=float(right.sum() / labelled.sum()),
            mean_accuracy=mean(accuracy),
            pixels=tuple(int(n) for n in labelled),
            counts=tuple(map(tuple, counts.tolist())),
        )

    @classmethod
    def mean_of(cls, sets: Sequence["Scores"]) -> "Scores":
        """The mean over sets, each of which counts the same, however many images it has.

        Means over classes are averaged as they are. The IoU of a class is averaged over the sets in
        which it occurs, so that their mean may be another than the averaged mIoU.
        """

        def over(values: Callable[[Scores], Sequence[float]]) -> tuple[float, ...]:
            return tuple(mean(of_each) for of_each in zip(*map(values, sets), strict=True))

        return cls(
            iou=over(lambda one: one.iou),
            accuracy=over(lambda one: one.accuracy),
            # Of a set without a score there is no mean: NaN.
            miou={name: fmean(one.miou[name] for one in sets) for name in sets[0].miou},
            pixel_accuracy=fmean(one.pixel_accuracy for one in sets),
            mean_accuracy=fmean(one.mean_accuracy for one in sets),
            pixels=tuple(map(sum, zip(*(one.pixels for one in sets), strict=True))),
            counts=sets[0].counts if len(sets) == 1 else None,
        )

    def summary(self) -> dict[str, float]:
        """The scalars, by the names they are logged under."""
        return {
            **self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
        }


class Scored(Protocol):
    """What callbacks read from a module that has been evaluated."""

    labels: LabelSpace
    scores: dict[str, Scores]
    source_scores: dict[str, Scores]
    eval_domains: tuple[str, ...]
    protocol: str
    stage: str


def averaged(domains: Iterable[str]) -> tuple[str, ...]:
    """Those of some domains that are evaluation sets by name, over which there is a mean."""
    return tuple(domain for domain in domains if domain not in OWN)


def judged_by(eval_domains: Sequence[str]) -> str:
    """Whose scores a run is judged by: the mean over its evaluation sets, or its first domain."""
    return MEAN if averaged(eval_domains) else eval_domains[0]


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN when all are."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
