"""Some pixels of every image, drawn at random."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def random_positions(
    batch: int, pixels: int, *, count: int, device: torch.device
) -> Int[Tensor, "B n"]:
    """Positions in 0..pixels - 1, none twice in an image; all of them where there are too few.

    Draws from torch's global generator on the device.

    Args:
        batch: B.
        pixels: of one image.
        count: how many of them are wanted.
        device: of the positions.
    """
    return torch.rand(batch, pixels, device=device).argsort(dim=1)[:, :count]


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
