"""Images of a text-to-image model, each from noise of its own."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sfseg.data.geometry import Image
from sfseg.errors import ConfigError
from sfseg.generation.settings import require_above, require_whole
from sfseg.types import size_text

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
STEP = 8
"""Pipelines of diffusers refuse sizes that are no multiple of it, whatever the model's factor."""


@dataclass(frozen=True)
class Sampling:
    """How a model makes an image of noise.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        steps: of the scheduler.
        guidance: factor of what the prompt changes; 1 is none.

    Raises:
        ConfigError: a number that cannot be.
    """

    height: int = 512
    width: int = 512
    steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        for name in ("height", "width", "steps"):
            require_whole(name, getattr(self, name))
        require_above("guidance", self.guidance, 0, or_equal=True)
        if math.isinf(self.guidance):
            raise ConfigError(f"guidance must be finite, got {self.guidance}")

    def require_fitting(self, pipeline: "DiffusionPipeline") -> None:
        """Refuse a size that the model would not give.

        Some pipelines refuse it themselves, others cut it down to what their VAE's factor fits
        into, without a word.

        Raises:
            ConfigError: names the nearest sizes.
        """
        factor = math.lcm(STEP, int(getattr(pipeline, "vae_scale_factor", STEP)))
        if self.height % factor == 0 and self.width % factor == 0:
            return
        nearest = [sorted({max(factor, side // factor * factor), -(-side // factor) * factor})
                   for side in (self.height, self.width)]  # fmt: skip
        raise ConfigError(
            f"images of {self.height}x{self.width} (height x width) cannot be made: both must be "
            f"multiples of {factor} for this model; nearest are "
            f"height={' or '.join(map(str, nearest[0]))}, "
            f"width={' or '.join(map(str, nearest[1]))}"
        )

    def images(
        self, pipeline: "DiffusionPipeline", prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image]:
        """An image (H, W, 3) uint8 RGB for each prompt, from noise of its seed.

        The noise is drawn on the CPU, where it is the same for every device and batch.
        """
        call: Any = pipeline
        made = call(
            prompt=list(prompts),
            height=self.height,
            width=self.width,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        images = [np.asarray(image.convert("RGB"), np.uint8) for image in made.images]
        size = (self.height, self.width)
        for image in images:
            assert image.shape[:2] == size, f"{size_text(image.shape[:2])}, not {size_text(size)}"
        return images


def use_scheduler(pipeline: "DiffusionPipeline", name: str | None) -> str:
    """Give a model another scheduler, with the settings of its own; the class it has now.

    Args:
        pipeline: the model.
        name: one of :data:`SCHEDULERS`; None leaves the model's own.

    Raises:
        ConfigError: no such scheduler.
    """
    import diffusers

    model: Any = pipeline
    if name is not None:
        if name not in SCHEDULERS:
            raise ConfigError(f"scheduler must be one of {', '.join(SCHEDULERS)}, got {name!r}")
        kind: Any = getattr(diffusers, SCHEDULERS[name])
        model.scheduler = kind.from_config(model.scheduler.config)
    return type(model.scheduler).__name__


def fingerprint(pipeline: "DiffusionPipeline") -> str:
    """SHA-256 of the weights that images depend on, in the precision that they are held in.

    It tells models apart that follow each other under one name, such as two personalised ones.
    """
    found = hashlib.sha256()
    for part, module in sorted(pipeline.components.items()):
        if not isinstance(module, nn.Module) or part == "safety_checker":
            continue
        for name, tensor in sorted(module.state_dict().items()):
            found.update(f"{part}.{name}".encode())
            held = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(held.view(torch.uint8).numpy().data)
    return found.hexdigest()


def longer_than_read(pipeline: "DiffusionPipeline", prompts: Sequence[str]) -> list[str]:
    """Prompts of more tokens than the model reads, which cuts them."""
    tokenizer: Any = pipeline.components.get("tokenizer")
    if tokenizer is None:
        return []
    longest = tokenizer.model_max_length
    return [prompt for prompt in prompts if len(tokenizer(prompt).input_ids) > longest]
