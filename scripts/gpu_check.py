"""Every method for a few real steps at paper size: peak memory and images per second.

Networks start from random weights and batches are noise, so neither downloads nor a data set
are needed. Each method trains under a Lightning Trainer with its own optimiser and schedule and
gives one row of a Markdown table; images of all domains count. On a GPU the peak is that of
torch's allocator; on the processor it is the resident memory of the whole process, which may keep
what methods before have left.

    python scripts/gpu_check.py
    python scripts/gpu_check.py --device cpu --backbone tiny --size 64 --steps 1
    python scripts/gpu_check.py --methods source_only backbone.gradient_checkpointing=true
"""

import argparse
import gc
import sys
import tempfile

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from sfseg.callbacks.cost import peak_mib
from sfseg.config.composition import CONF
from sfseg.labels import CITYSCAPES
from sfseg.runs.noise import Noise, measure
from sfseg.runs.quiet import quiet_lightning

COLUMNS = ("method", "backbone", "parameters", "trainable", "images/s", "peak GiB")


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
                f"output_dir={folder}",
                *options.overrides,
            ],
        )


def row(name: str, options: argparse.Namespace, folder: str) -> tuple[str, ...]:
    """One row of the table."""
    cfg = composed(name, options, folder)
    size = (options.size, options.size)
    batches = Noise(
        cfg.method.needs, options.batch, {"source": size, "target": size}, CITYSCAPES.num_classes
    )
    found = measure(cfg, batches, CITYSCAPES, steps=options.steps, warm_up=options.warm_up)
    sizes = (f"{found.parameters / 1e6:.1f} M", f"{found.trainable / 1e6:.1f} M")
    peak = f"{peak_mib(torch.device(options.device)) / 2**10:.2f}"
    return (name, options.backbone, *sizes, f"{found.images_per_second:.2f}", peak)


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
                print(f"| {' | '.join(row(name, options, folder))} |", flush=True)
            except Exception as error:  # out of memory, say; the other methods still run
                failed += 1
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"| {name} | {options.backbone} | failed: {reason} ||||", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    return failed


if __name__ == "__main__":
    sys.exit(main() > 0)
