"""How far the correction of pseudo-labels may spread a class over the images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor


class Growth:
    """Counts of labels, of which each class may have a multiple of what the source model gave it.

    Early learning that has ended speaks for a class's predictions only as long as these are about
    the class. Where a model has begun to see one class everywhere, they are confident, and their
    correction spreads what is wrong.

    Args:
        most: times the pixels of the start that the labels of a class may cover; None: any.

    Raises:
        ValueError: less than the start itself.
    """

    def __init__(self, most: float | None) -> None:
        if most is not None and most < 1:
            raise ValueError(f"max_growth must be at least 1, or null for any, got {most}")
        self.most = most
        self.first = torch.zeros(0, dtype=torch.int64)
        self.now = torch.zeros(0, dtype=torch.int64)

    def begin(self, counts: Callable[[], Integer[Tensor, " K"]]) -> None:
        """Count labels, where a checkpoint has not brought counts."""
        if self.most is not None and not self.first.numel():
            self.first = counts()
            self.now = self.first.clone()

    def is_over(self, label: int) -> bool:
        """Whether a class may take no more pixels."""
        return self.most is not None and bool(self.now[label] >= self.most * self.first[label])

    def of(self, label: int) -> float:
        """Times the pixels of the start that a class has by now."""
        return float(self.now[label]) / max(1, int(self.first[label]))

    def move(self, before: UInt8[np.ndarray, " N"], after: UInt8[np.ndarray, " N"]) -> None:
        """Take note of pixels whose label has changed."""
        if self.most is None:
            return
        gained, lost = (np.bincount(ids, minlength=256)[: len(self.now)] for ids in (after, before))
        self.now += torch.from_numpy(gained - lost)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "now": self.now}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first, self.now = state_dict["first"], state_dict["now"]
