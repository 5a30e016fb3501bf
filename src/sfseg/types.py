"""What travels between the layers.

Shape letters used everywhere: B images of a batch, K classes, C channels, H and W height and
width in pixels. Sizes are always ``(height, width)``; texts for people, see :func:`size_text`,
show them as width x height.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, Required, TypedDict

from torch import Tensor

IGNORE = 255
"""Label of pixels that neither train nor count: void, padding, unlabelled images."""


def size_text(size: Sequence[int]) -> str:
    """A size (height, width) as people read it: width x height."""
    height, width = size
    return f"{width}x{height}"


class Batch(TypedDict):
    """Images of one domain.

    image: (B, 3, H, W) uint8 RGB; networks normalise it on the device. In training, pictures that
        are smaller than the largest of the batch lie in the top left corner of theirs; the rest
        is padding, see :func:`sfseg.ops.padding.valid_pixels`.
    label: (B, H, W) uint8 class ids, :data:`IGNORE` where there is none. In evaluation it has
        the label file's own size, which may differ from the image's.
    index: (B,) int64 position in the dataset.
    geometry: (B, 9) int64, see :class:`sfseg.data.geometry.Geometry`; numbers 6 and 7 are the
        height and width of what is shown of the picture.
    pseudo_label: (B, H, W) uint8 class ids that a model has given to images of the target, for
        methods that need ``pseudo_labels``; :data:`IGNORE` where there is none.
    left_out: index and reason of scenes that turned out unusable while this batch was read; the
        data module takes it out before a method sees the batch.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    geometry: Tensor
    pseudo_label: NotRequired[Tensor]
    left_out: NotRequired[list[tuple[int, str]]]


TrainingBatch = Mapping[str, Batch]
"""A training batch: ``source``, ``target`` or both, as the method's ``needs`` say."""


class StepOutput(TypedDict, total=False):
    """What ``training_step`` returns.

    loss: scalar with gradient.
    prediction: (B, H, W) class ids of the target images, detached; in padding any of them.
    confidence: (B, H, W) probability of the prediction in [0, 1], detached.
    """

    loss: Required[Tensor]
    prediction: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Measured:
    """A measurement of early learning, see :class:`sfseg.callbacks.early_learning.EarlyLearning`.

    slowed: ids of the classes whose labels are to be corrected.
    """

    slowed: frozenset[int]


@dataclass
class Step:
    """A training step, and what those who look on have found out about it so far.

    iteration: number of its batch, from 1; 0 before the first.
    terms: parts of the loss at hand by name, detached.
    is_skipped: it was left out, see :class:`sfseg.callbacks.finite.FiniteGuard`: nothing may be
        learnt from it.
    early_learning: the measurement that it ended with, if any.
    """

    iteration: int = 0
    terms: dict[str, Tensor] = field(default_factory=dict)
    is_skipped: bool = False
    early_learning: Measured | None = None
