"""The step of DAFormer: beside a bare loop, with separate backward passes, with checkpointing.

Three comparisons, each of two arms in one run:

step        CPU time of ``method=daformer`` in Lightning's trainer, with the guard against losses
            that are not finite, over a bare loop of the same passes (source, teacher, mixed,
            backward of each loss, optimiser, teacher's update); in one process, in turn, the
            median of all. The goal is 1.05.
propagate   CPU time and peak of resident memory of ``method.propagate=sum`` over ``each``, with
            masked images. The goals are no more time, and 1.35 for the memory.
checkpoint  the same of ``backbone.gradient_checkpointing=true`` over ``false``, in bfloat16. The
            goal is 0.6 of the memory.

The arms of the last two run in processes of their own. Their memory includes the libraries and the
networks, which are there before the first step, so what steps add stands beside; how far the
gradients of their first steps are apart is printed too. Noise for images, random weights, one
thread, no feature distance.

    python scripts/bench_engine.py step
    python scripts/bench_engine.py propagate --backbone mit_b0
    python scripts/bench_engine.py checkpoint --size 256 256
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterable
from copy import deepcopy
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from in_turn import InTurn
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sfseg.callbacks.finite import FiniteGuard
from sfseg.config.composition import CONF, build
from sfseg.data.geometry import Geometry
from sfseg.labels import CITYSCAPES
from sfseg.methods.dacs import DACS
from sfseg.ops.class_mix import class_mask
from sfseg.ops.masking import strong_view
from sfseg.runs.preparation import network_of
from sfseg.runs.quiet import quiet_lightning
from sfseg.types import IGNORE, Batch

DEFAULTS = {
    "step": {"backbone": "tiny", "size": [256, 256], "steps": 20, "precision": "32-true"},
    "propagate": {"backbone": "tiny", "size": [256, 256], "steps": 5, "precision": "32-true"},
    "checkpoint": {"backbone": "mit_b5", "size": [512, 512], "steps": 1, "precision": "bf16-mixed"},
}
GB = ("peak", "before", "step")
ARMS = {
    "propagate": {
        "each": ["method.propagate=each", "method.masked=1"],
        "sum": ["method.propagate=sum", "method.masked=1"],
    },
    "checkpoint": {
        "without": ["backbone.gradient_checkpointing=false"],
        "with": ["backbone.gradient_checkpointing=true"],
    },
}


def built(options: argparse.Namespace, *more: str) -> DACS:
    height, width = options.size
    crop = f"[{height},{width}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train",
            ["method=daformer", f"backbone={options.backbone}", "trainer=cpu", "output_dir=.",
             "run_name=bench", "backbone.pretrained=false", "method.feature_distance=0",
             f"data.source_view.crop={crop}", f"data.target_crop={crop}", *more],
        )  # fmt: skip
    torch.manual_seed(0)
    method: DACS = build(cfg.method)(
        network=network_of(cfg, CITYSCAPES, None),
        labels=CITYSCAPES,
        eval_domains=("target",),
        inference=build(cfg.evaluation),
    )
    return method


def noise(options: argparse.Namespace, seed: int) -> Batch:
    random, size = torch.Generator().manual_seed(seed), tuple(options.size)
    shape = (options.batch, 3, *size)
    cells = torch.randint(CITYSCAPES.num_classes, (options.batch, 1, 4, 8), generator=random)
    return {
        "image": torch.randint(256, shape, generator=random, dtype=torch.uint8),
        "label": F.interpolate(cells.float(), size)[:, 0].to(torch.uint8),
        "index": torch.arange(options.batch),
        "geometry": torch.tensor([Geometry.whole(size)] * options.batch),
    }


def train(method: DACS, options: argparse.Namespace, *callbacks: Callback) -> None:
    """As many steps as are timed, and one before them."""
    steps = options.steps + 1
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        precision=options.precision, callbacks=[FiniteGuard(), *callbacks],
    )  # fmt: skip
    batches = [{"source": noise(options, 2 * k), "target": noise(options, 2 * k + 1)}
               for k in range(2)]  # fmt: skip
    data: Any = [batches[k % 2] for k in range(steps)]
    trainer.fit(method, torch.utils.data.DataLoader(data, batch_size=None, collate_fn=dict))


class Bare:
    """The loop, with the network and settings of a method before its first step."""

    def __init__(self, method: DACS) -> None:
        self.student = deepcopy(method.network).train()
        self.teacher = deepcopy(method.network).requires_grad_(False).train()
        for part in self.teacher.modules():
            if "Drop" in type(part).__name__:
                part.eval()
        # As fast as the method's: all weights in a few groups.
        self.optimizer = method.shared["optimizer"](method.optimizer_groups())
        trained = dict(zip(method.network.parameters(), self.student.parameters(), strict=True))
        for group in self.optimizer.param_groups:
            group["params"] = [trained[p] for p in group["params"]]
        self.confidence, self.colour, self.hue = method.confidence, method.colour, method.hue
        self.steps = 0

    def step(self, source: Batch, target: Batch) -> None:
        self.optimizer.zero_grad()
        image, label = source["image"], source["label"].long()
        weighted(self.student(image), label, torch.ones(label.shape)).backward()
        with torch.no_grad():
            sure, taught = self.teacher(target["image"]).softmax(dim=1).max(dim=1)
            share = (sure >= self.confidence).float().mean()
            taken = class_mask(label, num_classes=CITYSCAPES.num_classes)
            mixed = torch.where(taken[:, None], image, target["image"])
            view = strong_view(mixed.float() / 255, strength=self.colour, hue=self.hue)
        label = torch.where(taken, label, taught)
        weighted(self.student(view), label, torch.where(taken, 1.0, share)).backward()
        self.optimizer.step()
        self.steps += 1
        momentum = min(1 - 1 / (self.steps + 1), 0.999)
        with torch.no_grad():
            pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            for mine, theirs in pairs:
                mine.lerp_(theirs, 1 - momentum)


def weighted(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """The mean of all pixels' weighted cross-entropy, classes last in memory as in the library."""
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
    each = F.cross_entropy(rows, label.flatten(), ignore_index=IGNORE, reduction="none")
    return each @ weight.flatten() / label.numel()


class FirstGradients(Callback):
    """Of the first step: one number a parameter, a sum of random signs."""

    sums: list[float]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step:
            return
        random = torch.Generator().manual_seed(0)
        found = [p.grad for p in pl_module.parameters() if p.grad is not None]
        signs = (2.0 * torch.randint(0, 2, g.shape, generator=random) - 1 for g in found)
        self.sums = [float((g * s).sum()) for g, s in zip(found, signs, strict=True)]


def measure(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of the median step, GB and gradients, of a process of its own."""
    turns, gradients = InTurn(), FirstGradients()
    method = built(options, *ARMS[options.part][arm])
    before = peak_gb()
    train(method, options, turns, gradients)
    return {
        # The first step also makes the optimiser's state and the libraries' kernels.
        "seconds": median(turns.ours[1:] or turns.ours),
        "peak": peak_gb(),
        "before": before,
        "gradients": gradients.sums,
    }


def peak_gb() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def beside_a_loop(options: argparse.Namespace) -> None:
    method = built(options)
    turns = InTurn(Bare(method))
    train(method, options, turns)
    ours, theirs = (median(times[1:]) for times in (turns.ours, turns.theirs))
    print(f"{'':12s}{'CPU ms a step':>16s}")
    print(f"{'bare loop':12s}{1e3 * theirs:16.1f}")
    print(f"{'daformer':12s}{1e3 * ours:16.1f}")
    print(f"{'ratio':12s}{ours / theirs:16.3f}")


def in_processes(command: list[str], arms: Iterable[str]) -> list[dict[str, Any]]:
    """What each of two arms says of itself, in a process of its own; prints a table.

    Args:
        command: of a process, but for ``--arm`` and its name; its last line is JSON.
        arms: their names.
    """
    found: list[dict[str, Any]] = []
    print(f"{'':12s}{'CPU s a step':>16s}{'peak GB':>10s}{'before':>10s}{'a step':>10s}")
    for arm in arms:
        words = [*command, "--arm", arm]
        run = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        one = json.loads(run.stdout.splitlines()[-1])
        one["step"] = one["peak"] - one["before"]
        found.append(one)
        print(f"{arm:12s}{one['seconds']:16.2f}", *(f"{one[key]:9.2f}" for key in GB))
    first, second = found
    seconds, *ratios = (second[key] / first[key] for key in ("seconds", *GB))
    print(f"{'ratio':12s}{seconds:16.3f}", *(f"{ratio:9.3f}" for ratio in ratios))
    return found


def beside_each_other(options: argparse.Namespace, given: list[str]) -> None:
    command = [sys.executable, __file__, options.part, *given]
    first, second = in_processes(command, ARMS[options.part])
    mine, theirs = (torch.tensor(run["gradients"]).double() for run in (first, second))
    print(f"gradients differ by {float((mine - theirs).norm() / mine.norm()):.1e} of their size")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=DEFAULTS, help="what is compared")
    parser.add_argument("--backbone", help="of conf/backbone")
    parser.add_argument("--size", type=int, nargs=2, help="height and width")
    parser.add_argument("--batch", type=int, default=2, help="images of each domain")
    parser.add_argument("--steps", type=int, help="timed steps of each arm")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    for name, value in DEFAULTS[options.part].items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    quiet_lightning()
    if options.arm:
        print(json.dumps(measure(options.arm, options)))
        return
    height, width = options.size
    print(
        f"{options.backbone}, {width}x{height}, {options.batch} images of each domain, "
        f"{options.precision}, one thread"
    )
    if options.part == "step":
        beside_a_loop(options)
    else:
        beside_each_other(options, [word for word in given if word != options.part])


if __name__ == "__main__":
    main()
