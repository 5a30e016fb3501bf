"""Every method for a few real steps at paper size: peak memory and images per second.

Networks start from random weights and batches are noise, so neither downloads nor a data set
are needed. Each method trains under a Lightning Trainer with its own optimiser and schedule and
gives one row of a Markdown table; images of all domains count. On a GPU the peak is that of
torch's allocator; on the processor it is the resident memory of the whole process, the methods
before included.

    python scripts/gpu_check.py
    python scripts/gpu_check.py --device cpu --backbone tiny --size 64 --steps 1
    python scripts/gpu_check.py --methods source_only backbone.gradient_checkpointing=true
"""

import argparse
import gc
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig
from torch.utils.data import DataLoader, IterableDataset

from sfseg.config.composition import CONF, build
from sfseg.data.geometry import Geometry
from sfseg.labels import CITYSCAPES
from sfseg.methods.base import Method
from sfseg.optim import count_parameters
from sfseg.runs.preparation import network_of, untrained_of
from sfseg.runs.quiet import quiet_lightning
from sfseg.types import IGNORE, Batch, TrainingBatch

COLUMNS = ("method", "backbone", "parameters", "trainable", "images/s", "peak GiB")


class Noise(IterableDataset[TrainingBatch]):
    """Endless batches of random pixels and labels, made beforehand so as not to be timed.

    Args:
        needs: what the method asks for; labels of the target are void without target_labels.
        batch: images of each domain.
        size: edge of the images in pixels.
    """

    def __init__(self, needs: list[str], batch: int, size: int) -> None:
        domains = [d for d in ("source", "target") if {d, f"{d}_labels"} & set(needs)]
        void = set() if "target_labels" in needs else {"target"}
        random = torch.Generator().manual_seed(0)
        self.batches = [
            {domain: noise(batch, size, domain in void, random) for domain in domains}
            for _ in range(2)
        ]

    def __iter__(self) -> Iterator[TrainingBatch]:
        return itertools.cycle(self.batches)


def noise(batch: int, size: int, void: bool, random: torch.Generator) -> Batch:
    shape, classes = (batch, size, size), CITYSCAPES.num_classes
    label = torch.randint(classes, shape, generator=random, dtype=torch.uint8)
    return {
        "image": torch.randint(256, (batch, 3, size, size), generator=random, dtype=torch.uint8),
        "label": torch.full_like(label, IGNORE) if void else label,
        "index": torch.arange(batch),
        "geometry": torch.tensor([Geometry.whole((size, size))] * batch),
        "pseudo_label": label,
    }


class Stopwatch(Callback):
    """Seconds and images of the batches after the first ``warm_up``."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds = 0.0
        self.images = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.warm_up:
            self.seconds = -now()
        if batch_idx >= self.warm_up:
            self.images += sum(len(domain["image"]) for domain in batch.values())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += now()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def methods() -> list[str]:
    files = (CONF / "method").glob("*.yaml")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def composed(name: str, options: argparse.Namespace, folder: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(
            "train",
            [
                f"method={name}",
                f"backbone={options.backbone}",
                f"trainer={'gpu' if options.device == 'cuda' else 'cpu'}",
                "backbone.pretrained=false",
                f"output_dir={folder}",
                *options.overrides,
            ],
        )


def measure(name: str, options: argparse.Namespace, folder: str) -> tuple[str, ...]:
    """One row of the table."""
    cfg = composed(name, options, folder)
    seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    method: Method = build(cfg.method)(
        **untrained_of(cfg, CITYSCAPES),
        network=network_of(cfg, CITYSCAPES, None),
        labels=CITYSCAPES,
        eval_domains=("target",),
        inference=build(cfg.evaluation),
    )
    stopwatch = Stopwatch(options.warm_up)
    trainer: Trainer = build(
        cfg.trainer,
        logger=False,
        callbacks=[stopwatch],
        enable_checkpointing=False,
        # Lightning's steps are those of optimisers; a method may have several.
        max_steps=-1,
        max_epochs=1,
        limit_train_batches=options.warm_up + options.steps,
        limit_val_batches=0,
    )
    batches = Noise(list(cfg.method.needs), options.batch, options.size)
    trainer.fit(method, DataLoader(batches, batch_size=None))
    total, trainable = count_parameters(method.network.parameters())
    speed = stopwatch.images / stopwatch.seconds
    peak = peak_gib(options.device)
    sizes = (f"{total / 1e6:.1f} M", f"{trainable / 1e6:.1f} M")
    return (name, options.backbone, *sizes, f"{speed:.2f}", f"{peak:.2f}")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the number of methods that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--backbone", default="swin_b")
    parser.add_argument("--size", type=int, default=512, help="edge of the crops in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images of each domain")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--methods", nargs="+", default=methods(), metavar="NAME")
    parser.add_argument("overrides", nargs="*", help="more settings, as for sfseg-train")
    options = parser.parse_args(arguments)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    quiet_lightning()

    hardware = torch.cuda.get_device_name() if options.device == "cuda" else "processor"
    print(f"{hardware}, torch {torch.__version__}, {options.batch} x {options.size}x{options.size}")
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.methods:
            try:
                print(f"| {' | '.join(measure(name, options, folder))} |", flush=True)
            except Exception as error:  # out of memory, say; the other methods still run
                failed += 1
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"| {name} | {options.backbone} | failed: {reason} ||||", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    return failed


if __name__ == "__main__":
    sys.exit(main() > 0)
