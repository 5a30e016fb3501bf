"""Which sample comes when: pure functions of (seed, position), with any number of ranks."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from sfseg.data.folder import Ticket
from sfseg.data.shares import Share
from sfseg.errors import ConfigError
from sfseg.randomness import generator


@dataclass(frozen=True)
class Contents:
    """What a set of images holds.

    length: number of images.
    classes: names of the classes.
    counts: (N, K) labelled pixels of each class in each image; without rows where nobody asks.
    left_out: images that cannot be used.
    """

    length: int
    classes: Sequence[str] = ()
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    left_out: Collection[int] = ()


class Order(Protocol):
    """Which sample stands where in an endless sequence: a pure function of the position."""

    def __call__(self, position: int) -> Ticket: ...


class ImageSampler(Protocol):
    """Settings by which training images are chosen."""

    counts_classes: ClassVar[bool]
    """Whether it asks for the pixels of each class in every image."""
    follows_focus: ClassVar[bool]
    """Whether it can give some of the classes more room than others during training."""

    def order(
        self, contents: Contents, *, seed: int, purpose: str, focus: Sequence[int] | None = None
    ) -> Order:
        """The sequence of a set.

        Args:
            contents: of the set.
            seed: run seed.
            purpose: name of the domain.
            focus: ids of the classes to look for, the most wanted first; None says nothing.

        Raises:
            ConfigError: no image of the set could be chosen.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """Every image once in each pass, see :class:`Passes`."""

    counts_classes: ClassVar[bool] = False
    follows_focus: ClassVar[bool] = False

    def order(
        self, contents: Contents, *, seed: int, purpose: str, focus: Sequence[int] | None = None
    ) -> "Passes":
        """See :class:`ImageSampler`."""
        return Passes(contents.length, seed=seed, purpose=purpose)


class Passes:
    """Shuffled passes over a dataset, each of which shows every sample once.

    Args:
        length: number of samples of the dataset.
        seed: run seed.
        purpose: name of the domain.
    """

    def __init__(self, length: int, *, seed: int, purpose: str) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        self.length = length
        self.seed = seed
        self.purpose = purpose
        self._known: tuple[int, NDArray[np.int64]] = -1, np.empty(0, np.int64)

    def __call__(self, position: int) -> Ticket:
        pass_number, place = divmod(position, self.length)
        if self._known[0] != pass_number:
            self._known = pass_number, self.of_pass(pass_number)
        return Ticket(pass_number, int(self._known[1][place]))

    def of_pass(self, pass_number: int) -> NDArray[np.int64]:
        """The permutation of one pass."""
        rng = generator(self.seed, pass_number, 0, f"{self.purpose}/order")
        return rng.permutation(self.length)


class EndlessBatches(Sampler[list[Ticket]]):
    """Batches of an endless sequence of samples.

    The sequence does not depend on the number of ranks: they take turns of ``batch_size``, so
    two ranks with batch 4 train on what one rank with batch 8 does. A batch may span two
    passes; nothing is dropped or padded.

    Args:
        order: the sequence, asked for whenever an iteration begins.
        batch_size: samples of a batch on this rank.
        rank: this process; 0 <= rank < world_size.
        world_size: number of processes.
        start: batches already consumed on each rank, asked for whenever an iteration begins;
            resuming needs nothing else, and neither does an epoch that follows another.
        end: the number of consumed batches at which an iteration ends that begins at a given
            one; None: it does not.
        share: of the batches, which are of two domains, that is this domain's; None: all.
    """

    def __init__(
        self,
        order: Callable[[], Order],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], int] = int,
        end: Callable[[int], int | None] = lambda start: None,
        share: Share | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.end = end
        if share is not None:
            share.expected(batch_size * world_size, world_size)
        self.share = share

    def __iter__(self) -> Iterator[list[Ticket]]:
        order, number = self.order(), self.start()
        end = self.end(number)
        while end is None or number < end:
            yield [order(position) for position in self._positions(number)]
            number += 1

    def _positions(self, number: int) -> range:
        if self.share is not None:
            return self.share.positions(
                number, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size
            )
        first = (number * self.world_size + self.rank) * self.batch_size
        return range(first, first + self.batch_size)


def end_of_part(start: int, *, parts: int, steps: int, adds_up: int = 1) -> int | None:
    """The batch before which the next of several equal parts of a training begins.

    Args:
        start: batches that are over.
        parts: number of parts.
        steps: of the whole training; part k, from 0, begins after ``k * steps // parts`` of them.
        adds_up: batches of a step, of which no part begins in the middle.

    Returns:
        A number of batches above ``start``; None in the last part.
    """
    begins = (k * steps // parts * adds_up for k in range(1, parts))
    return next((begin for begin in begins if begin > start), None)


class EvalSampler(Sampler[Ticket]):
    """Every sample once, dealt to the ranks in turn, without padding.

    Lightning's own distributed sampler repeats samples until the ranks are even, which counts
    them twice in a confusion matrix.

    Args:
        length: number of samples of the dataset.
        rank: this process; 0 <= rank < world_size.
        world_size: number of processes.
        left_out: samples that do not come.

    ``indices`` are the samples of this process, ``every`` those of all.
    """

    def __init__(
        self,
        length: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        left_out: Collection[int] = (),
    ) -> None:
        every = [k for k in range(length) if k not in left_out] if left_out else range(length)
        self.every: Sequence[int] = every
        self.indices = self.every[rank::world_size]

    def __iter__(self) -> Iterator[Ticket]:
        return (Ticket(0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def evaluated(length: int, *, batch_size: int, limit: float, world_size: int) -> int:
    """How many samples evaluation sees on all ranks together.

    Args:
        length: number of samples that are dealt by :class:`EvalSampler`.
        batch_size: samples of a batch.
        limit: batches of a rank as an integer, or their share as a float, as Lightning has it.
        world_size: number of processes.
    """
    seen = 0
    for rank in range(world_size):
        mine = len(range(length)[rank::world_size])
        batches = -(-mine // batch_size)
        allowed = int(batches * limit) if isinstance(limit, float) else limit
        seen += min(mine, min(allowed, batches) * batch_size)
    return seen


def require_same_order(before: int, now: int) -> None:
    """Refuse to go on with a training whose order of images would be another.

    Args:
        before: images of a step over all processes, as the checkpoint says.
        now: likewise, of the run that goes on.

    Raises:
        ConfigError: they differ.
    """
    if before != now:
        raise ConfigError(
            f"the checkpoint was trained with {before} images a step over all processes, this run "
            f"has {now}; set data.batch_size, of a method that adapts data.adaptation.batch_size, "
            "so that both agree, or the order of the data would be another"
        )
