"""Some pixels of every image, drawn at random."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def random_positions(
    maps: Shaped[Tensor, "B C H W"],
    *,
    count: int,
    valid: Bool[Tensor, "B H W"] | None = None,
) -> Int[Tensor, "B n"]:
    """Positions of pixels, counted row by row, none twice in an image; all where there are few.

    As many in every image: no more than the one with the fewest has. Draws from torch's global
    generator on the device.

    Args:
        maps: for their size and device alone.
        count: how many are wanted.
        valid: pixels that may be drawn; None: all.
    """
    order = torch.rand(len(maps), maps[0, 0].numel(), device=maps.device)
    if valid is not None:
        order = order.masked_fill(~valid.flatten(1), 2.0)  # after all others
        count = min(count, int(valid.sum(dim=(1, 2)).min()))
    return order.argsort(dim=1)[:, :count]


def at_positions(
    maps: Shaped[Tensor, "B C H W"], positions: Int[Tensor, "B n"]
) -> Shaped[Tensor, "B n C"]:
    """Vectors of the given pixels, which are counted row by row."""
    index = positions[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2)


@torch.no_grad()
def enqueue(
    queue: Float[Tensor, "q C"], queued: Int[Tensor, ""], fresh: Float[Tensor, "n C"]
) -> None:
    """Put vectors before those of a queue, whose oldest fall off its end; in place.

    Args:
        queue: its first ``queued`` rows are vectors, the latest first.
        queued: how many there are.
        fresh: to be put in; of more than the queue holds, the first.
    """
    kept = torch.cat([fresh, queue[: int(queued)]])[: len(queue)]
    queue[: len(kept)] = kept
    queued.fill_(len(kept))
