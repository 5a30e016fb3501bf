"""Images a second of processor time: batches of eight beside single images.

Both arms make the same images with a tiny model of the shape of Stable Diffusion, in turn and in
one process, so that what else the machine does falls on both. What a batch saves is what diffusers
does once a step whatever the batch's size; so it is worth the more, the smaller the images. The
images of both arms are compared too, in grey levels.

    python scripts/bench_generate_images.py
    python scripts/bench_generate_images.py --size 32 --steps 20
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tiny_diffusion import pipeline

from sfseg.generation.datum_prompts import datum_prompts
from sfseg.generation.plan import Plan
from sfseg.generation.sampling import Sampling

BATCH = 8
Images = np.ndarray[Any, np.dtype[np.uint8]]


def arm(model: Any, sampling: Sampling, plan: Plan) -> tuple[float, Images]:
    """Processor seconds and images (N, H, W, 3)."""
    start, made = time.process_time(), []
    for batch in plan.batches():
        prompts, seeds = [plan.prompt(j) for j in batch], [plan.seed + j for j in batch]
        made += sampling.images(model, prompts, seeds)
    return time.process_time() - start, np.stack(made)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--size", type=int, default=16, help="height and width in pixels")
    parser.add_argument("--steps", type=int, default=10, help="of the scheduler")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    model = pipeline()
    model.set_progress_bar_config(disable=True)
    sampling = Sampling(given.size, given.size, given.steps)
    prompts = datum_prompts("things", None, "sks")
    plans = [Plan(prompts, given.images, batch_size=size) for size in (1, BATCH)]
    for plan in plans:
        arm(model, sampling, Plan(prompts, BATCH, batch_size=plan.batch_size))  # warm
    seconds: list[list[float]] = [[], []]
    difference = 0
    for _ in range(given.rounds):
        (single, one), (batched, other) = (arm(model, sampling, plan) for plan in plans)
        seconds[0].append(single)
        seconds[1].append(batched)
        difference = max(difference, int(np.abs(one.astype(int) - other).max()))
    rates = [given.images / statistics.median(part) for part in seconds]
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    print(f"{given.size}x{given.size}, {given.steps} steps, images a second of processor time:")
    print(f"  batch 1: {rates[0]:.1f}, batch {BATCH}: {rates[1]:.1f}, ratio {ratio:.2f}")
    print(f"  largest difference of a value: {difference} of 255")


if __name__ == "__main__":
    main()
