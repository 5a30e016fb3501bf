"""Scenes that are left out of a set because they cannot be used, with no other one moved."""

import logging
from itertools import chain
from typing import Literal

from sfseg.errors import DataError

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
"""What a scene that cannot be used does: it ends the run, or is left out."""


class LeftOut:
    """The scenes of a set that are left out, each reported once, and how many may be.

    Args:
        title: the set's name, such as ``source train``.
        scenes: how many it has.
        at_most: how many of them may be left out.
    """

    def __init__(self, title: str, scenes: int, at_most: int) -> None:
        self.title = title
        self.scenes = scenes
        self.at_most = at_most
        self.indices: set[int] = set()

    def add(self, index: int, reason: str) -> None:
        """Leave out a scene, and say so.

        Args:
            index: of the scene.
            reason: names the file and what is wrong with it.

        Raises:
            DataError: more than may be, or all, are left out by now.
        """
        if index in self.indices:
            return
        self.indices.add(index)
        log.warning("%s: a scene is left out (data.on_error=skip): %s", self.title, reason)
        count = len(self.indices)
        if count > self.at_most or count == self.scenes:
            raise DataError(
                f"{self.title}: {count} of {self.scenes} scenes cannot be used, and "
                f"data.max_skipped={self.at_most} may be left out, but not all; the last one: "
                f"{reason}; sfseg-data check lists all"
            )

    def usable(self, index: int) -> int:
        """The scene itself, or the next one that is not left out."""
        following = chain(range(index, self.scenes), range(index))
        return next(k for k in following if k not in self.indices)

    def report(self) -> None:
        """Log how many are left out, if there are any."""
        if self.indices:
            log.warning("%s: %s", self.title, self.text)

    @property
    def text(self) -> str:
        """How many of how many scenes are left out."""
        return f"{len(self.indices)} of {self.scenes} scenes left out"
