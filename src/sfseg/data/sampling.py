"""Which sample comes when: pure functions of (seed, position), with any number of ranks."""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from sfseg.data.folder import Ticket
from sfseg.randomness import generator


class EndlessBatches(Sampler[list[Ticket]]):
    """Batches of shuffled passes over a dataset, without end.

    The sequence of samples depends on the seed alone: ranks take turns of ``batch_size``, so
    two ranks with batch 4 train on what one rank with batch 8 does. A batch may span two
    passes; nothing is dropped or padded.

    Args:
        length: number of samples of the dataset.
        batch_size: samples of a batch on this rank.
        seed: run seed.
        purpose: name of the domain.
        rank: this process; 0 <= rank < world_size.
        world_size: number of processes.
        start: batches already consumed on each rank, asked for whenever an iteration begins;
            resuming needs nothing else, and neither does an epoch that follows another.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        purpose: str,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], int] = int,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.purpose = purpose
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[Ticket]]:
        order_of, order = -1, np.empty(0, np.int64)
        number = self.start()
        while True:
            first = (number * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                pass_number, place = divmod(position, self.length)
                if pass_number != order_of:
                    order_of, order = pass_number, self.order(pass_number)
                batch.append((pass_number, int(order[place])))
            yield batch
            number += 1

    def order(self, pass_number: int) -> NDArray[np.int64]:
        """The permutation of one pass."""
        rng = generator(self.seed, pass_number, 0, f"{self.purpose}/order")
        return rng.permutation(self.length)


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
        return ((0, index) for index in self.indices)

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
