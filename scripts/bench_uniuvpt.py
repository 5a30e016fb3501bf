"""One training step of the prompted Swin-B beside a plain step of its source model.

Both arms are the modules that `sfseg-train` builds, with random weights, AdamW and a batch of
noise: forward, backward and the optimiser's step, float32, one thread. Each arm runs in processes
of its own, in turn; the numbers are CPU time of a step, the minimum of all, and the largest peak of
resident memory, libraries included. The goal is a prompted step of at most 5.0 plain ones and
4.5 GB; the published code takes 6.5 and 6.2 GB of its own (torch's default allocator, a crop of
256x256, batch 1).

    python scripts/bench_uniuvpt.py
    python scripts/bench_uniuvpt.py method.adapter.recompute=false
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile

import torch
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF, build
from sfseg.labels import CITYSCAPES
from sfseg.methods.base import Method
from sfseg.optim import count_parameters
from sfseg.runs.preparation import network_of
from sfseg.types import TrainingBatch

ARMS = {"plain": "source_only", "prompted": "uniuvpt"}


def built(name: str, backbone: str, overrides: list[str]) -> Method:
    settings = [f"method={name}", f"backbone={backbone}", "trainer=cpu"]
    # Settings of the prompts are not the source model's.
    own = [o for o in overrides if not o.startswith("method.") or name == "uniuvpt"]
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(CONF), version_base="1.3"),
    ):
        tail = ["backbone.pretrained=false", f"output_dir={folder}", *own]
        cfg = compose("train", [*settings, *tail])
    method: Method = build(cfg.method)(
        network=network_of(cfg, CITYSCAPES, None),
        labels=CITYSCAPES,
        eval_domains=("target",),
        inference=build(cfg.evaluation),
    )
    method.log = lambda *_, **__: None  # type: ignore[method-assign]
    return method.train()


def noise(size: int) -> TrainingBatch:
    random = torch.Generator().manual_seed(0)
    label = torch.randint(CITYSCAPES.num_classes, (1, size, size), generator=random)
    domain = {
        "image": torch.randint(256, (1, 3, size, size), generator=random, dtype=torch.uint8),
        "label": label.to(torch.uint8),
        "pseudo_label": label.to(torch.uint8),
        "index": torch.zeros(1, dtype=torch.long),
        "geometry": torch.zeros(1, 9, dtype=torch.long),
    }
    return {"source": domain, "target": domain}  # type: ignore[typeddict-item]


def measure(arm: str, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of the fastest step and peak GB, in a process that does nothing else."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    method, batch = built(ARMS[arm], options.backbone, options.overrides), noise(options.size)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    seconds = []
    for _ in range(options.steps + 1):
        before = resource.getrusage(resource.RUSAGE_SELF)
        optimizer.zero_grad()
        output = method.training_step(batch, 0)
        output["loss"].backward()
        optimizer.step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    millions = count_parameters(trained)[1] / 1e6
    return {
        # The first step also makes the optimiser's state and the libraries' kernels.
        "seconds": min(seconds[1:]),
        "peak": peak * (1 if sys.platform == "darwin" else 1024) / 1e9,
        "trained": millions,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="swin_b")
    parser.add_argument("--size", type=int, default=256, help="edge of the crop in pixels")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each arm")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="more settings, as for sfseg-train")
    options = parser.parse_args(arguments)
    if options.arm:
        print(json.dumps(measure(options.arm, options)))
        return

    given = sys.argv[1:] if arguments is None else arguments
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.repeats):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, *given]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[arm].append(json.loads(run.stdout.splitlines()[-1]))
    best = {arm: min(run["seconds"] for run in runs) for arm, runs in found.items()}
    print(f"{options.backbone}, {options.size}x{options.size}, batch 1, float32, one thread")
    print(f"{'':10s}{'CPU s a step':>14s}{'peak GB':>10s}{'trained M':>12s}")
    for arm, runs in found.items():
        peak = max(run["peak"] for run in runs)
        print(f"{arm:10s}{best[arm]:14.2f}{peak:10.2f}{runs[0]['trained']:12.3f}")
    print(f"{'ratio':10s}{best['prompted'] / best['plain']:14.2f}")


if __name__ == "__main__":
    main()
