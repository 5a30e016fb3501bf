"""A step of DreamBooth beside the bare passes, and the memory of adapters beside all weights.

Time: the bare passes are forward and backward of U-Net and text encoder on noisy latents that are
there already, with AdamW; ours is the whole step: windows of a picture, the VAE's latents, noise,
the passes, clipping and AdamW. Both run in one process on one thread, in turn, on copies of the
same weights; CPU time, the median of all. What the VAE takes is shown apart, since the bare
passes have none. The goal is a ratio of at most 1.1.

Memory: a run of ``sfseg-generate personalise`` in a process of its own, forked from one that has
imported all it needs; the most that it holds above that, a kept model and its state included. The
goal is at most half for adapters.

The model has random weights, a U-Net of 99 million with Stable Diffusion's layers, and a tiny VAE
that makes latents of 32x32 of windows of 64 pixels.

    python scripts/bench_generate.py
    python scripts/bench_generate.py --quick
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tiny_diffusion
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfseg.generation.crops import Crops
from sfseg.generation.dreambooth import DreamBooth
from sfseg.generation.identifier import tokens_of
from sfseg.generation.personalisation import Personalisation
from sfseg.generation.pipelines import load_pipeline, quiet_libraries
from sfseg.generation.settings import Lora, Settings

MIB = 1 << 20
ADAPTERS = Lora(rank=4, alpha=4)


def pipeline() -> Any:
    """Of Stable Diffusion's layers, a third as wide; its VAE and text encoder are tiny."""
    from diffusers import UNet2DConditionModel

    made = tiny_diffusion.pipeline()
    torch.manual_seed(0)
    made.register_modules(
        unet=UNet2DConditionModel(
            sample_size=32, block_out_channels=(112, 224, 432, 432), norm_num_groups=16,
            cross_attention_dim=made.text_encoder.config.hidden_size, attention_head_dim=8,
        )
    )  # fmt: skip
    return made


class Bare:
    """The passes and AdamW, with a pipeline's weights as they are."""

    def __init__(self, training: DreamBooth) -> None:
        self.unet = deepcopy(training.pipeline.unet).train()
        self.text = deepcopy(training.pipeline.text_encoder).train()
        self.tokens = tokens_of(training.pipeline.tokenizer, training.settings.prompt)
        weights = [*self.unet.parameters(), *self.text.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=5e-6, weight_decay=1e-2, fused=True)

    def step(self, noisy: Tensor, time: Tensor, noise: Tensor) -> None:
        found = self.unet(noisy, time, self.text(self.tokens)[0]).sample
        F.mse_loss(found, noise).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def timed(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def compare_time(model: Any, crops: Crops, settings: Settings, steps: int) -> None:
    """Print the CPU seconds of a step, of the bare passes, and of the VAE alone."""
    training = DreamBooth(model, settings)
    bare = Bare(training)
    shape = [1, 4, settings.crop // 2, settings.crop // 2]
    noisy, noise, when = torch.randn(shape), torch.randn(shape), torch.tensor([500])
    ours, theirs, vae = [], [], []
    with torch.no_grad():
        images = crops.batch(0, 1)
    for number in range(steps + 1):
        ours.append(timed(lambda n=number: training.step(n, crops.batch(n, 1))))  # type: ignore[misc]
        theirs.append(timed(lambda: bare.step(noisy, when, noise)))
        with torch.no_grad():
            vae.append(timed(lambda: training.pipeline.vae.encode(images)))
    step, passes, latents = (median(seconds[1:]) for seconds in (ours, theirs, vae))
    print(f"step: {step:.3f} s, of which the VAE {latents:.3f} s; bare passes: {passes:.3f} s")
    print(f"ratio: {step / passes:.3f}, without the VAE {(step - latents) / passes:.3f}")


def peak() -> int:
    """The most bytes that this process has held since it last wrote to ``clear_refs``."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) * 1024


def held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def apart(task: Callable[..., int], *arguments: Any) -> int:
    """What a task returns that runs in a process forked from this one."""
    forked = multiprocessing.get_context("fork")
    with forked.Pool(1) as pool:
        return pool.apply(task, arguments)


def write_model(folder: str, is_tiny: bool) -> int:
    (tiny_diffusion.pipeline() if is_tiny else pipeline()).save_pretrained(folder)
    return 0


def run(picture: Path, settings: Settings) -> None:
    """A personalisation from its beginning to its end."""
    crops = windows(picture, settings)
    with tempfile.TemporaryDirectory() as out:
        training = DreamBooth(load_pipeline(settings.model), settings)
        Personalisation(training, crops, None, Path(out)).run([])


def measured(picture: Path, small: Settings, settings: Settings) -> int:
    """The most bytes that a run holds above what its process held before.

    A small run comes first: a fork does not count pages of libraries until it touches them.
    """
    run(picture, small)
    Path("/proc/self/clear_refs").write_text("5")
    before = held()
    run(picture, settings)
    return peak() - before


def windows(picture: Path, settings: Settings) -> Crops:
    crop = settings.crop
    return Crops([picture], resize=2 * crop, crop=crop, seed=0)


def compare_memory(picture: Path, small: Settings, settings: Settings) -> None:
    """Print the peak of a run that trains all weights, and of one that trains adapters."""
    peaks = []
    for name, lora in (("all weights", None), ("adapters", ADAPTERS)):
        arms = (replace(each, lora=lora) for each in (small, settings))
        peaks.append(apart(measured, picture, *arms))
        print(f"{name}: {peaks[-1] / MIB:,.0f} MiB at most above the imports")
    print(f"ratio: {peaks[1] / peaks[0]:.3f}")


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=7, help="timed")
    parser.add_argument("--quick", action="store_true", help="the tiny model, to see that it runs")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    quiet_libraries()
    crop = 32 if given.quick else 64
    with tempfile.TemporaryDirectory() as place:
        folder, picture = f"{place}/model", Path(place) / "picture.png"
        size = (2 * crop, 4 * crop, 3)
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(noise).save(picture)
        small = Settings(model=f"{place}/small", crop=32, steps=1)
        write_model(small.model, is_tiny=True)
        for lora in (None, ADAPTERS):  # so that all is imported: much is so late
            run(picture, replace(small, lora=lora))
        # In a process of its own: what it frees here, a run would not be counted for.
        apart(write_model, folder, given.quick)
        settings = Settings(model=folder, crop=crop, steps=2, keep_every=2, save_every=2)
        # First: what a timed run leaves in memory would be counted as imported.
        compare_memory(picture, small, settings)
        compare_time(load_pipeline(folder), windows(picture, settings), settings, given.steps)


if __name__ == "__main__":
    main()
