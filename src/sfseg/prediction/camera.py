"""The frames of a camera, until it is stopped."""

import logging
import re
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import FrameType

import cv2
import numpy as np

from sfseg.errors import DataError
from sfseg.prediction.frames import USUAL_RATE, Frame

log = logging.getLogger(__name__)

NAME = re.compile(r"camera:(\d+)")
"""What stands for a camera among names of files: its number, 0 for the first."""


def is_camera(name: str) -> bool:
    """Whether a name stands for a camera."""
    return NAME.fullmatch(name) is not None


class Camera:
    """Iterates over the frames of a camera as they come, once; Ctrl-C ends it, and no more.

    A frame's time is when it was read: where the network is slower than the camera, there are
    fewer frames, at their true times.

    rate: frames a second, as the camera says it.
    count: not known; None.

    Args:
        name: see :data:`NAME`.
        seconds: to record; None: until Ctrl-C.

    Raises:
        DataError: there is no such camera, or it cannot be opened.
    """

    count: int | None = None

    def __init__(self, name: str, seconds: float | None = None) -> None:
        found = NAME.fullmatch(name)
        assert found is not None, "is_camera"
        self.path = Path(name.replace(":", "_"))
        self.seconds = seconds
        self._capture = cv2.VideoCapture(int(found[1]))
        if not self._capture.isOpened():
            raise DataError(
                f"images={name} cannot be opened; see that a camera is there, that no other "
                "program has it, and that you may read it; the first is camera:0"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(rate).limit_denominator(1000) if rate > 0 else USUAL_RATE
        self._is_stopped = self._ends_early = False

    def __iter__(self) -> Iterator[Frame]:
        before = signal.signal(signal.SIGINT, self._stop)
        if self.seconds is None:
            log.info("%s: recording until Ctrl-C", self.path)
        first: float | None = None
        try:
            while not self._is_stopped:
                is_read, image = self._capture.read()
                if not is_read:
                    self._ends_early = True
                    return
                now = time.monotonic()
                first = now if first is None else first
                if self.seconds is not None and now - first >= self.seconds:
                    return
                yield Frame(np.ascontiguousarray(image[..., ::-1], np.uint8), now - first)
        finally:
            signal.signal(signal.SIGINT, before)
            self._capture.release()

    def remark(self) -> str:
        """What is to be said of frames that did not come; empty where all did."""
        return f"{self.path} hands out no more frames" if self._ends_early else ""

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._is_stopped = True
