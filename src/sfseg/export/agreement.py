"""Whether a file computes what the network does, at sizes and batches it was not made with."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.export.deployed import Deployed
from sfseg.export.tracing import reason
from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.heads.segnet import SegNetHead

Run = Callable[[Tensor], Mapping[str, Tensor]]
"""Images (B, 3, H, W) to what a file hands out, by its names."""

EQUAL_SHARE = 0.999
"""Least share of equal pixels: argmax differs where two logits nearly do not."""
TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest: ten times what ResNets show."""
CHOOSING = (SegNetHead, Mask2FormerHead)
"""Heads in which rounding decides where a value goes: logits may differ by their own size."""
SHARE_OF_CHOOSING = 0.995
"""Of these heads; wrong files agree in 0.2 to 0.9 of the pixels."""
SHARE_IN_EIGHT_BITS = 0.5
"""Of files in eight bits, which must run at all sizes; how good they are, scores say."""
READS_A_SIZE = "A layer may read a size as a number of Python"


class Row(NamedTuple):
    """How a file compares with the network for one batch.

    size: height and width of the images.
    difference: largest of two logits of a pixel; None where the file hands out no logits.
    largest: logit of the network, its sign left out.
    equal: share of pixels of equal class, and of equal confidence to one level.
    classes: that the network sees.
    """

    size: tuple[int, int]
    batch: int
    difference: float | None
    largest: float
    equal: float
    classes: int


def compare(model: Deployed, run: Run, pictures: Sequence[Shaped[Tensor, "2 3 _ _"]]) -> list[Row]:
    """A row for each size, of both of its pictures and of the first alone.

    Raises:
        ConfigError: the file cannot be run at one of the sizes.
    """
    return [_row(model, run, pair[:batch]) for pair in pictures for batch in (2, 1)]


def require_agreement(model: Deployed, rows: Sequence[Row], *, int8: bool = False) -> None:
    """Refuse a file that differs from the network.

    Args:
        model: the network.
        rows: how they compare.
        int8: the file computes in eight bits.

    Raises:
        ConfigError: says where, and by how much.
    """
    chooses = int8 or has_choices(model)
    least = SHARE_OF_CHOOSING if chooses else EQUAL_SHARE
    least = SHARE_IN_EIGHT_BITS if int8 else least
    for row in rows:
        where = f"at {row.size[0]}x{row.size[1]} pixels, batch {row.batch}"
        limit = TOLERANCE * max(1.0, row.largest)
        # So asked, a share or a difference that is NaN is refused too.
        if not row.equal >= least:
            raise ConfigError(
                f"the exported file is wrong {where}: {row.equal:.4f} of the pixels are as in "
                f"torch, less than {least}; it is not kept. "
                + ("Set int8=false" if int8 else READS_A_SIZE)
            )
        if not (chooses or row.difference is None or row.difference <= limit):
            raise ConfigError(
                f"the exported file is wrong {where}: logits differ by up to {row.difference:.1e}, "
                f"more than {limit:.1e}; it is not kept"
            )


def has_choices(model: nn.Module) -> bool:
    """Whether the network has one of the heads that are judged by the share of pixels alone."""
    return any(isinstance(part, CHOOSING) for part in model.modules())


def _row(model: Deployed, run: Run, image: Tensor) -> Row:
    batch, _, height, width = image.shape
    with torch.inference_mode():
        wanted = dict(zip(model.names, model(model.taken(image)), strict=True))
    try:
        made = run(model.taken(image))
    # What a program that runs the file raises, in classes of its own.
    except Exception as error:
        raise ConfigError(
            f"the exported file cannot be run at {height}x{width} pixels, batch {batch}: "
            f"{reason(error)}; it is not kept. {READS_A_SIZE}"
        ) from error
    logits, classes = wanted["logits"], _classes(wanted)
    largest, seen = logits.abs().max().item(), len(torch.unique(classes))
    if wrong := [name for name in made if made[name].shape != wanted[name].shape]:
        raise ConfigError(
            f"the exported file is wrong at {height}x{width} pixels, batch {batch}: {wrong[0]} are "
            f"of {tuple(made[wrong[0]].shape)}, not {tuple(wanted[wrong[0]].shape)}; it is not kept"
        )
    difference = None
    if "logits" in made:
        difference = (made["logits"] - logits).abs().max().item()
    equal = _classes(made) == classes
    if "confidence" in made:
        levels = made["confidence"].int() - wanted["confidence"].int()
        equal &= levels.abs() <= 1
    share = equal.double().mean().item()
    return Row((height, width), batch, difference, largest, share, seen)


def _classes(outputs: Mapping[str, Tensor]) -> Tensor:
    return outputs["labels"].long() if "labels" in outputs else outputs["logits"].argmax(dim=1)
