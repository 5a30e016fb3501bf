"""Pictures that a personalisation draws itself: of its progress, and of other places."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from sfseg.data.geometry import Image
from sfseg.generation.settings import Settings
from sfseg.randomness import seed32
from sfseg.report.drawing import write_png


def draw(pipeline: Any, prompt: str, seeds: Sequence[int], *, size: int, steps: int) -> list[Image]:
    """Square pictures (size, size, 3), each a function of its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn = pipeline(
        [prompt] * len(seeds), height=size, width=size, num_inference_steps=steps,
        generator=generators, output_type="np",
    ).images  # fmt: skip
    return list((drawn * 255).round().astype(np.uint8))


def draw_progress(pipeline: Any, settings: Settings) -> Image:
    """What the model draws now, side by side (size, number * size, 3), from the same noise always.

    One after the other: beside the optimiser's state there may be room for no more.
    """
    samples = settings.samples
    seeds = [seed32(settings.seed, 0, k, "generation/samples") for k in range(samples.number)]
    row = [
        draw(pipeline, samples.prompt, [seed], size=settings.crop, steps=samples.steps)[0]
        for seed in seeds
    ]
    return np.concatenate(row, axis=1)


def draw_others(pipeline: Any, settings: Settings, folder: Path) -> list[Path]:
    """Pictures of prior preservation, by the model as it is before training.

    Those that are there already are kept, which the same settings have drawn.
    """
    paths = [folder / f"{k:05d}.png" for k in range(settings.prior.number)]
    missing = [k for k, path in enumerate(paths) if not path.exists()]
    for k in track(missing, "drawing pictures of other places"):
        seed = seed32(settings.seed, 0, k, "generation/others")
        prior = settings.prior
        (picture,) = draw(pipeline, prior.prompt, [seed], size=settings.crop, steps=prior.steps)
        write_png(paths[k], picture)
    return paths
