"""How well files segment: on labelled images, or beside one another."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from sfseg.export.agreement import Run
from sfseg.export.deployed import Deployed
from sfseg.labels import LabelSpace
from sfseg.metrics import ConfusionMatrix, Scores
from sfseg.ops.inference import label_map


class Change(NamedTuple):
    """What another file does to the scores of one.

    images: that were looked at.
    before: of the one, against the labels; None where there are none.
    after: of the other.
    beside: of the other's masks, the one's taken for labels.
    """

    images: int
    before: Scores | None
    after: Scores | None
    beside: Scores


def change(
    model: Deployed,
    one: Run,
    other: Run,
    samples: Iterable[tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "h w"] | None]],
    labels: LabelSpace,
) -> Change:
    """Scores of two files, whose logits are brought to the size of the labels.

    Args:
        model: what both were made from.
        one: a file that hands out logits.
        other: likewise.
        samples: images as the network is evaluated, and their labels or None.
        labels: the task's.
    """
    before, after, beside = (ConfusionMatrix(labels.num_classes) for _ in range(3))
    images = labelled = 0
    for image, label in samples:
        images += 1
        height, width = image.shape[-2:] if label is None else label.shape
        seen = model.taken(image[None])
        first, second = (label_map(run(seen)["logits"], (height, width)) for run in (one, other))
        beside.update(second, first)
        if label is not None:
            labelled += 1
            before.update(first, label[None])
            after.update(second, label[None])

    def scores(matrix: ConfusionMatrix) -> Scores:
        return Scores.of(matrix.compute(), labels)

    if not labelled:
        return Change(images, None, None, scores(beside))
    return Change(images, scores(before), scores(after), scores(beside))
