"""Many pictures: while the network sees some, others are read and written."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from sfseg.data.inputs import Input
from sfseg.data.odd_pictures import Facts
from sfseg.errors import ConfigError, DataError
from sfseg.prediction.predictor import Predictor
from sfseg.report.drawing import Pixels
from sfseg.report.predictions import Predictions
from sfseg.runs.memory import is_out_of_memory

THREADS = min(4, os.cpu_count() or 1)
"""That read, and as many that write; each holds a picture."""


class Read(NamedTuple):
    """A picture (H, W, 3), and what is known of its file."""

    image: Pixels
    facts: Facts


class _Ready(NamedTuple):
    one: Input
    image: Pixels


class Batches:
    """Predicts pictures and writes what is found in them; keeps the order.

    Args:
        read: called in threads.
        infer: the network.
        written: takes the predictions, in threads.
        batch_size: consecutive pictures of one size that the network sees at once.

    Raises:
        ConfigError: no such batch.
    """

    def __init__(
        self,
        read: Callable[[Input], Read],
        infer: Predictor,
        written: Predictions,
        *,
        batch_size: int = 1,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number from 1, got {batch_size}")
        self.read = read
        self.infer = infer
        self.written = written
        self.batch_size = batch_size
        self.facts: list[Facts] = []
        self._failed: dict[Input, str] = {}
        self._waiting: list[_Ready] = []
        self._writing: deque[tuple[_Ready, Future[None]]] = deque()

    def run(self, inputs: Sequence[Input]) -> Iterator[Input]:
        """Predict them; yields each once it has been read.

        Raises:
            DataError: the output cannot be written.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            for one, reading in ahead(self.read, inputs):
                yield one
                try:
                    image, facts = reading.result()
                except DataError as error:
                    self._failed[one] = str(error)
                # As MemoryError and as errors of cv2.
                except Exception as error:
                    self._failed[one] = self._too_large(error, one, None)
                else:
                    self.facts.append(facts)
                    self._take(_Ready(one, image), pool)
            self._predict(pool)
            while self._writing:
                self._settle()

    def count(self, inputs: Sequence[Input]) -> int:
        """Of the pictures that are written."""
        return len(inputs) - len(self._failed)

    def failed(self, inputs: Sequence[Input]) -> list[str]:
        """Why pictures could not be predicted, in their order."""
        return [self._failed[one] for one in inputs if one in self._failed]

    def _take(self, ready: _Ready, pool: ThreadPoolExecutor) -> None:
        shape = ready.image.shape
        if self._waiting and self._waiting[0].image.shape != shape:
            self._predict(pool)
        self._waiting.append(ready)
        if len(self._waiting) >= self.batch_size or not self.infer.is_whole((shape[0], shape[1])):
            self._predict(pool)

    def _predict(self, pool: ThreadPoolExecutor) -> None:
        """All that wait, and hand them to those who write."""
        several, self._waiting = self._waiting, []
        found = self._together(several) if len(several) > 1 else None
        if found is not None:
            for ready, (label, confidence) in zip(several, found, strict=True):
                self._write(ready, label, confidence, pool)
            return
        for ready in several:
            try:
                label, confidence = self.infer(ready.image, ready.one.path)
            except Exception as error:
                self._failed[ready.one] = self._too_large(error, ready.one, ready.image)
            else:
                self._write(ready, label, confidence, pool)

    def _together(self, several: Sequence[_Ready]) -> list[tuple[Pixels, Pixels]] | None:
        """None where the memory does not hold them all at once."""
        try:
            return self.infer.together([ready.image for ready in several])
        # As in `run`, and as errors of torch.
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            return None

    def _write(
        self, ready: _Ready, label: Pixels, confidence: Pixels, pool: ThreadPoolExecutor
    ) -> None:
        future = pool.submit(self.written.write, ready.one.name, ready.image, label, confidence)
        self._writing.append((ready, future))
        if len(self._writing) > THREADS:
            self._settle()

    def _settle(self) -> None:
        ready, future = self._writing.popleft()
        try:
            future.result()
        except Exception as error:
            self._failed[ready.one] = self._too_large(error, ready.one, ready.image)

    def _too_large(self, error: Exception, one: Input, image: Pixels | None) -> str:
        """What to say of a picture that the memory did not hold; raises any other error."""
        if not is_out_of_memory(error):
            raise error
        torch.cuda.empty_cache()
        size = "" if image is None else f" of {image.shape[1]}x{image.shape[0]} pixels"
        return f"{one.path}{size} is {self.infer.too_large}"


def ahead(
    read: Callable[[Input], Read], inputs: Sequence[Input]
) -> Iterator[tuple[Input, Future[Read]]]:
    """Each picture as a future, in order; some more are being read meanwhile."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        begun: deque[tuple[Input, Future[Read]]] = deque()
        for one in inputs:
            begun.append((one, pool.submit(read, one)))
            if len(begun) > THREADS:
                yield begun.popleft()
        while begun:
            yield begun.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
