"""What the scores of a run stand for, in words: classes, sizes, images, inference, precision."""

from typing import TYPE_CHECKING

from sfseg.data.sampling import evaluated
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from sfseg.data.module import AdaptationData
    from sfseg.ops.inference import Inference


def protocol_of(data: "AdaptationData", inference: "Inference", trainer: "Trainer") -> str:
    """The protocol of evaluations by a trainer, with how many images where these are not all.

    Args:
        data: opened.
        inference: from an image to logits.
        trainer: evaluates.

    Raises:
        ConfigError: a set has fewer images than the run has processes, or none of it would be
            evaluated.
    """
    parts = [data.protocol]
    for domain in data.eval_domains:
        name = f"{domain}_eval"
        every = len(data.scenes[name])
        usable = every - len(data.left_out[name].indices)
        if usable < trainer.world_size:
            raise ConfigError(
                f"the {domain} eval set has {usable} images for {trainer.world_size} processes, "
                "which take turns; set trainer.devices to no more than that"
            )
        limit = trainer.limit_val_batches
        seen = len(evaluated_scenes(data, domain, trainer))
        if limit and not seen:
            raise ConfigError(
                f"trainer.limit_val_batches={limit} must be 0 or leave some of the {usable} images "
                f"of the {domain} eval set; raise it, or give a whole number of batches"
            )
        if seen < usable:
            parts.append(f"{domain}: {seen} of {every} images")
    return ", ".join([*parts, str(inference), f"precision {trainer.precision}"])


def evaluated_scenes(data: "AdaptationData", domain: str, trainer: "Trainer") -> list[int]:
    """Positions of the scenes of a domain that evaluations by a trainer see, on all processes."""
    name = f"{domain}_eval"
    left_out = data.left_out[name].indices
    usable = [k for k in range(len(data.scenes[name])) if k not in left_out]
    # Processes take turns: together they see the first ones.
    return usable[
        : evaluated(
            len(usable),
            batch_size=data.eval_batch_size,
            limit=trainer.limit_val_batches,
            world_size=trainer.world_size,
        )
    ]
