"""Make the images of a set that are missing."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfseg.errors import DataError
from sfseg.generation.image_set import ImageSet
from sfseg.generation.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

log = logging.getLogger(__name__)

ENOUGH = 16
"""Images that are all black tell that the others would be too."""


def make_images(pipeline: "DiffusionPipeline", sampling: Sampling, images: ImageSet) -> int:
    """Make the missing images of this process's share; how many were made and kept.

    A batch of which images are missing is made whole and what is there stays, so that rounding is
    that of the batch it was meant for.

    Args:
        pipeline: the model, on its device.
        sampling: how it makes an image.
        images: of which set.

    Raises:
        DataError: nothing but black images.
        OutputError: an image cannot be written; those before it are finished.
    """
    from rich.progress import track

    images.remove_partial()
    plan = images.plan
    batches = list(plan.batches())
    own = [number for batch in batches for number in batch]
    black = sum(map(images.is_black, own))
    kept = sum(map(images.has, own)) - black
    _say_what_is_there(images, own)
    missing = [batch for batch in batches if not all(map(images.has, batch))]
    log.info("images of this process: %d, of which %d are there", len(own), kept + black)
    before = kept
    for batch in track(missing, description=f"generating {len(own) - kept - black} images"):
        made = sampling.images(
            pipeline, [plan.prompt(j) for j in batch], [plan.seed + j for j in batch]
        )
        for number, image in zip(batch, made, strict=True):
            if not images.has(number):
                is_kept = images.add(number, image)
                kept, black = kept + is_kept, black + (not is_kept)
        if not kept and black >= ENOUGH:
            break
    images.write_manifest()
    if own and not kept:
        raise DataError(
            f"out={images.folder}: all {black} images are black, or nearly. safety_checker=true "
            "makes those black that it refuses: set safety_checker=false. Without it, numbers "
            "overflow: set dtype=float32. Take another folder then"
        )
    if black:
        log.warning("black images, which are not kept: %d of %d", black, len(own))
    return kept - before


def _say_what_is_there(images: ImageSet, own: Sequence[int]) -> None:
    """Log images that are made again, and those that the set holds beyond its plan."""
    damaged = [images.plan.name(number) for number in own if images.is_damaged(number)]
    if damaged:
        log.warning(
            "damaged images, which are made again: %d, such as %s", len(damaged), damaged[0]
        )
    if beyond := images.beyond:
        log.info(
            "images beyond n_images=%d that stay: %d; training takes all of the folder",
            images.plan.n_images, beyond,
        )  # fmt: skip
