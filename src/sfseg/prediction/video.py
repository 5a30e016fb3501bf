"""Videos in, videos with the classes' colours out, and how much of them each class has."""

import csv
import io
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np

from sfseg.data.geometry import resize_image
from sfseg.errors import ConfigError, DataError
from sfseg.labels import LabelSpace
from sfseg.prediction.frames import AHEAD, Frame, Frames, in_thread, pyav
from sfseg.prediction.predictor import Predictor
from sfseg.prediction.smoothing import Smoothing
from sfseg.report.drawing import Pixels, overlay
from sfseg.storage.atomic import write_whole
from sfseg.types import size_text

log = logging.getLogger(__name__)

Layout = Literal["overlay", "side_by_side"]
"""What a written video shows: the colours over the frames, or the frames and, at their right, that.
"""
CLOCK = 60_000
"""Steps of a written video's time in a second: all usual rates are whole numbers of them."""
CODECS = {"libx264": {"crf": "18", "preset": "fast"}, "mpeg4": {"qmin": "2", "qmax": "5"}}
"""The first that is there, and its settings."""


@dataclass(frozen=True)
class Look:
    """How a written video looks.

    Args:
        layout: see :data:`Layout`.
        opacity: of the colours.
        smoothing: see :class:`sfseg.prediction.smoothing.Smoothing`; 0 for none.

    Raises:
        ConfigError: no layout, or no strength.
    """

    layout: Layout = "overlay"
    opacity: float = 0.55
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise ConfigError(
                f"video must be one of {', '.join(get_args(Layout))}, got {self.layout}"
            )
        self.memory()

    def memory(self) -> Smoothing | None:
        """What remembers the frames of one video."""
        try:
            smoothing = Smoothing(self.smoothing)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return smoothing if smoothing.strength else None

    def drawn(self, image: Pixels, label: Pixels, labels: LabelSpace) -> Pixels:
        """A frame (H, W, 3) as it is written."""
        over = overlay(image, label, labels.palette, self.opacity)
        return np.hstack([image, over]) if self.layout == "side_by_side" else over


Following = Callable[[Iterable[Frame], int | None], Iterable[Frame]]
"""Shows progress over items, of which there will be a number, if that is known."""


class Film(Protocol):
    """Frames one after the other, of a file or a camera; iterated over once.

    path: where they come from, for messages.
    rate: frames a second, on average.
    count: how many there will be, if that is known.
    """

    path: Path
    rate: Fraction
    count: int | None

    def __iter__(self) -> Iterator[Frame]: ...
    def remark(self) -> str:
        """What is to be said of frames that could not be shown; empty where all could be."""
        ...


def predict_video(
    film: Film,
    written: Path,
    infer: Predictor,
    labels: LabelSpace,
    look: Look,
    follow: Following = lambda frames, _: frames,
) -> None:
    """Predict all frames of a film; broken ones are left out and named in a warning.

    Writes ``<written>.mp4`` and ``<written>.csv``: for every second the number of its frames and
    the mean share of their pixels that each class has. Frames of another size than the first are
    predicted at their own and shown at that of the first.

    Args:
        film: see there; of a file, whose frames can wait, some are read ahead.
        written: of the output, without an ending.
        infer: the network.
        labels: its classes.
        look: of the video.
        follow: shows progress.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: there is no frame that can be read, or the output cannot be written.
    """
    memory, shares = look.memory(), Shares(labels)
    frames = in_thread(film) if isinstance(film, Frames) else film
    video: VideoFile | None = None
    try:
        for image, time in follow(frames, film.count):
            label, _ = infer(image, film.path, memory)
            shares.add(time, label)
            if video is None:
                size = (image.shape[0], image.shape[1])
                video = VideoFile(written.with_name(f"{written.name}.mp4"), film.rate, size)
            video.add(image, label, time, look, labels)
        if video is None:
            raise DataError(film.remark() or f"{film.path} has no frames")
        video.close()
    finally:
        if video is not None:
            video.discard()
    shares.write(written.with_name(f"{written.name}.csv"))
    if remark := film.remark():
        log.warning(remark)


class Shares:
    """How much of a video each class has, second by second."""

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels
        self._seconds: dict[int, list[Any]] = {}

    def add(self, time: float, label: Pixels) -> None:
        """A frame's ids (H, W), of which each is that of a class."""
        counts = np.bincount(label.ravel(), minlength=self.labels.num_classes)
        # A time of 0.9999 s is one that rounding has made of 1 s.
        second = self._seconds.setdefault(int(time + 1e-3), [0, 0.0])
        second[0] += 1
        second[1] = second[1] + counts / label.size

    def write(self, path: Path) -> None:
        """As a table of ``second``, ``frames`` and the classes.

        Raises:
            DataError: it cannot be written.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["second", "frames", *self.labels.classes])
        for second, (frames, total) in sorted(self._seconds.items()):
            table.writerow([second, frames, *(f"{share:.6f}" for share in total / frames)])
        try:
            write_whole(path, lambda file: file.write(text.getvalue().encode()))
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error}") from error


class VideoFile:
    """An MP4 file that gets its name once it is complete; drawn and encoded in a thread.

    Args:
        path: of the file.
        rate: frames a second, on average; each frame keeps its own time.
        size: (height, width) of the frames before they are drawn.

    Raises:
        DataError: it cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction, size: Sequence[int]) -> None:
        self.path = path
        self.size = (size[0], size[1])
        self.rate = rate
        self._partial = path.with_name(f".{path.name}.partial")
        self._pool = ThreadPoolExecutor(1)
        self._adding: deque[Future[None]] = deque()
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._has_said = False

    def add(
        self, image: Pixels, label: Pixels, time: float, look: Look, labels: LabelSpace
    ) -> None:
        """A frame, whose time in seconds is later than that of all before."""
        self._adding.append(self._pool.submit(self._add, image, label, time, look, labels))
        if len(self._adding) > AHEAD:
            self._adding.popleft().result()

    def close(self) -> None:
        """Write what is left, and give the file its name."""
        while self._adding:
            self._adding.popleft().result()
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._partial.replace(self.path)
        except (OSError, pyav().FFmpegError) as error:
            raise self._unwritable(error) from error

    def discard(self) -> None:
        """End the thread, and remove what was not completed."""
        self._pool.shutdown(cancel_futures=True)
        with suppress(OSError):
            self._partial.unlink()

    def _add(
        self, image: Pixels, label: Pixels, time: float, look: Look, labels: LabelSpace
    ) -> None:
        if image.shape[:2] != self.size and not self._has_said:
            self._has_said = True
            log.warning(
                "%s: from %.2f s on frames have %s pixels; they are shown at %s, the size of the "
                "first", self.path.name, time, size_text(image.shape[:2]), size_text(self.size),
            )  # fmt: skip
        if image.shape[:2] != self.size:
            label = np.asarray(
                cv2.resize(label, self.size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8
            )
            image = resize_image(image, self.size)
        drawn = even(look.drawn(image, label, labels))
        try:
            self._encode(drawn, time)
        except (OSError, pyav().FFmpegError) as error:
            raise self._unwritable(error) from error

    def _encode(self, drawn: Pixels, time: float) -> None:
        av = pyav()
        if self._container is None:
            self._open(drawn)
        frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
        self._last = max(self._last + 1, round(time * CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(frame))

    def _open(self, drawn: Pixels) -> None:
        av = pyav()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._partial), "w", format="mp4")
        name = next(name for name in CODECS if name in av.codecs_available)
        self._stream = self._container.add_stream(name, rate=self.rate, options=CODECS[name])
        self._stream.height, self._stream.width = drawn.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, CLOCK)

    def _unwritable(self, error: Exception) -> DataError:
        return DataError(f"{self.path} cannot be written: {error}")


def even(image: Pixels) -> Pixels:
    """With sides that players want: the last row or column comes twice where there are too few."""
    height, width = image.shape[:2]
    if height % 2 == width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
