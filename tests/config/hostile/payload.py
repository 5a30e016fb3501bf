"""What hostile files try to do, and how to damage good ones."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MARKER = Path(os.environ.get("HOSTILE_MARKER", "executed"))


TOUCH = f"touch {shlex.quote(str(MARKER))}"


class Payload:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (MARKER,)


def truncated(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Beginnings of a file: its first bytes, evenly spread, and all but the last."""
    for length in np.unique(np.linspace(1, len(data) - 1, count).astype(int)).tolist():
        yield f"cut after {length} of {len(data)} bytes", data[:length]


def flipped(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files with one bit changed, the places drawn at random over its whole length."""
    rng = np.random.default_rng(seed)
    for part in range(count):
        low, high = (len(data) * k // count for k in (part, part + 1))
        place, bit = int(rng.integers(low, max(high, low + 1))), int(rng.integers(8))
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} of {len(data)} flipped", bytes(changed)
