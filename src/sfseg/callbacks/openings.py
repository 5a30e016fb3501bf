"""Times in which the labels of a class are corrected, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Opening:
    """A time in which the labels of a class are corrected.

    label: class id.
    iteration: of training at which it began.
    passes: over the target's images until then.
    closed: passes at which it ended; None while it lasts.
    changed: pixels that became this class.
    refused: pixels that would have, had its labels not spread too far already.
    known: of these, pixels whose true class is known; for the two counts only.
    right_before: of the known ones, those whose label was right.
    right_after: those whose label is.
    """

    label: int
    iteration: int
    passes: float
    closed: float | None = None
    changed: int = 0
    refused: int = 0
    known: int = 0
    right_before: int = 0
    right_after: int = 0


def summary(openings: Sequence[Opening], num_classes: int) -> str:
    """In words, how many classes were corrected and whether that was right."""
    classes = len({opening.label for opening in openings})
    changed, refused, known = (
        sum(getattr(opening, name) for opening in openings)
        for name in ("changed", "refused", "known")
    )
    text = f"label correction: {classes} of {num_classes} classes, {changed:,} pixels"
    if refused:
        text += f", {refused:,} refused"
    if known:
        before = sum(opening.right_before for opening in openings) / known
        after = sum(opening.right_after for opening in openings) / known
        text += f"; right, where the true label is known: {before:.1%} before, {after:.1%} after"
    return text
