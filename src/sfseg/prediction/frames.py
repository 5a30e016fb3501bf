"""The frames of a video file, one after the other; those that are broken are left out and named."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from glob import glob, has_magic
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sfseg.errors import ConfigError, DataError
from sfseg.report.drawing import Pixels

SUFFIXES = {
    ".avi", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv",
}  # fmt: skip
USUAL_RATE = Fraction(25)
"""Frames a second of files that do not say it."""
NAMED = 10
"""Broken frames that a message names."""
AHEAD = 4
"""Frames that are decoded before they are asked for."""

Item = TypeVar("Item")


class Frame(NamedTuple):
    """A picture (H, W, 3) of a video, upright, and its time in seconds from the first one."""

    image: Pixels
    time: float


def is_video(name: str) -> bool:
    """Whether a file, or what a pattern stands for, is a video by its name."""
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).is_dir()


def find_videos(sources: Sequence[str]) -> list[Path]:
    """The video files that names and patterns stand for, each once.

    Raises:
        DataError: there is none of a name, or two have names that differ in their ends alone.
    """
    found: dict[str, Path] = {}
    for source in sources:
        is_pattern = has_magic(source) and not Path(source).exists()
        paths = [Path(name) for name in sorted(glob(source, recursive=True))] if is_pattern else []  # noqa: PTH207
        paths = paths if is_pattern else [Path(source)]
        if not paths or not all(path.is_file() for path in paths):
            raise DataError(f"images={source} does not exist")
        for path in paths:
            if found.setdefault(path.stem, path) != path:
                raise DataError(
                    f"{found[path.stem]} and {path} would both be written as {path.stem}.mp4; "
                    "rename one of them"
                )
    return list(found.values())


def pyav() -> ModuleType:
    """The library that reads and writes videos.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "a video needs PyAV, which is not installed: pip install 'sfseg[video]'"
        ) from error
    return av


class Frames:
    """Iterates over the frames of a file, once.

    rate: frames a second, on average.
    count: how many there will be, as far as the file says it; else None.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: no video can be read from the file.
    """

    def __init__(self, path: Path) -> None:
        av = pyav()
        self.path = path
        self._error: type[Exception] = av.FFmpegError
        try:
            self._container: Any = av.open(str(path))
        except av.FFmpegError as error:
            raise DataError(f"{path} cannot be read as a video: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{path} holds no video")
        self._stream = self._container.streams.video[0]
        self.rate: Fraction = self._stream.average_rate or USUAL_RATE
        duration = self._container.duration  # microseconds
        estimate = round(duration / 1e6 * self.rate) if duration else None
        self.count: int | None = self._stream.frames or estimate
        self._broken: list[str] = []
        self._first: float | None = None
        self._read = 0
        self._ends_early = ""

    def __iter__(self) -> Iterator[Frame]:
        try:
            for packet in self._packets():
                try:
                    decoded = packet.decode()
                except self._error:
                    self._leave_out(packet)
                    continue
                for frame in decoded:
                    if frame.is_corrupt:
                        self._leave_out(frame)
                    else:
                        yield self._frame(frame)
        finally:
            self._container.close()

    def remark(self) -> str:
        """What is to be said of frames that could not be shown; empty where all could be."""
        said = []
        if self._broken:
            more = "" if len(self._broken) <= NAMED else ", ..."
            listed = ", ".join(self._broken[:NAMED])
            said.append(f"{len(self._broken)} broken frames are left out, at {listed}{more}")
        if self._ends_early:
            said.append(f"the file ends early: {self._ends_early}")
        return f"{self.path}: {'; '.join(said)}" if said else ""

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._error as error:
                self._ends_early = str(error)
                return
            if packet is None:
                return
            yield packet

    def _frame(self, frame: Any) -> Frame:
        time = self._time(frame)
        if self._first is None:
            self._first = time
        self._read += 1
        image = upright(frame.to_ndarray(format="rgb24"), frame.rotation)
        return Frame(image, time - self._first)

    def _leave_out(self, part: Any) -> None:
        self._broken.append(f"{self._time(part) - (self._first or 0):.2f} s")
        self._read += 1

    def _time(self, part: Any) -> float:
        """In seconds, of a frame or a packet; by their number where the file does not say it."""
        if part.pts is None or part.time_base is None:
            return float(self._read / self.rate)
        return float(part.pts * part.time_base)


def upright(image: Pixels, rotation: int) -> Pixels:
    """A frame (H, W, 3) as players show it: turned counterclockwise, by degrees."""
    return np.ascontiguousarray(np.rot90(image, round(rotation / 90)))


def in_thread(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, of which some are made in a thread before they are asked for."""
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1)
    try:
        begun: deque[Any] = deque(pool.submit(next, iterator, end) for _ in range(AHEAD))
        while (found := begun.popleft().result()) is not end:
            begun.append(pool.submit(next, iterator, end))
            yield found
    finally:
        pool.shutdown(cancel_futures=True)
