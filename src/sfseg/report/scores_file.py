"""The scores of one set as a run's ``results.json`` holds them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RESULTS = "results.json"
Values = dict[str, float]
"""Shares in [0, 1] by the name of a metric or a class; NaN where there is none."""


class Scored(NamedTuple):
    """Scores of one set.

    protocol: what they stand for, in words.
    summary: of the whole set, ``mIoU`` among them.
    iou: of each class.
    before: summary and IoU of the source model, empty where none was adapted.
    """

    protocol: str
    summary: Values
    iou: Values
    before: tuple[Values, Values] | None

    @property
    def is_labelled(self) -> bool:
        """Whether the set has labels, so that there are scores."""
        return self.summary["mIoU"] == self.summary["mIoU"]


def scored(part: Mapping[str, Any], classes: Sequence[str]) -> Scored:
    """The scores of a set.

    Args:
        part: of the file's content.
        classes: all that it has scores of.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is none, or of other classes.
    """
    before = part.get("source_only")
    return Scored(
        str(part["protocol"]),
        *_values(part, classes),
        before=None if before is None else _values(before, classes),
    )


def _values(part: Any, classes: Sequence[str]) -> tuple[Values, Values]:
    iou = {name: _share(part["IoU"][name]) for name in classes}
    if len(part["IoU"]) != len(classes):
        raise ValueError(f"it has {len(part['IoU'])} classes")
    summary = {str(name): _share(value) for name, value in part["summary"].items()}
    return {"mIoU": summary.pop("mIoU"), **summary}, iou


def _share(value: Any) -> float:
    number = float("nan") if value is None else float(value)
    if number < 0 or number > 1:
        raise ValueError(f"{number} is no share in [0, 1]")
    return number
