"""What a frozen backbone saves CLOUDS, and that its step costs no more than its passes.

step    CPU time of ``method=clouds_warmup`` in Lightning's trainer, with the guard against losses
        that are not finite, over a bare loop of the same passes (backbone without gradient, head
        forward, loss, backward of the head, optimiser); in one process, in turn, the median of all.
        The goal is 1.1.
memory  peak of resident memory of the step with the frozen backbone over that with one that trains,
        ``method.adapter=null``; each in a process of its own. It includes the libraries and the
        network, which are there before the first step, so what steps add stands beside. The goal is
        0.55.

Noise for images, random weights, one thread.

    python scripts/bench_clouds.py step
    python scripts/bench_clouds.py memory --backbone clip_convnext_l
"""

import argparse
import json
import sys
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from bench_engine import in_processes, peak_gb, train
from hydra import compose, initialize_config_dir
from in_turn import InTurn

from sfseg.config.composition import CONF, build
from sfseg.labels import CITYSCAPES
from sfseg.methods.clouds import CLOUDS
from sfseg.ops.photometric import photometric
from sfseg.runs.preparation import network_of
from sfseg.runs.quiet import quiet_lightning
from sfseg.types import Batch

DEFAULTS = {
    "step": {"backbone": "tiny", "size": [128, 256], "steps": 20},
    "memory": {"backbone": "clip_convnext_l", "size": [256, 256], "steps": 2},
}
ARMS = {"trainable": ["method.adapter=null"], "frozen": []}


def built(options: argparse.Namespace, *more: str) -> CLOUDS:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train",
            ["method=clouds_warmup", f"backbone={options.backbone}", "trainer=cpu", "output_dir=.",
             "run_name=bench", "backbone.pretrained=false", *more],
        )  # fmt: skip
    torch.manual_seed(0)
    method: CLOUDS = build(cfg.method)(
        network=network_of(cfg, CITYSCAPES, None),
        labels=CITYSCAPES,
        eval_domains=("target",),
        inference=build(cfg.evaluation),
    )
    return method


class Bare:
    """The loop, with the network and settings of a method before its first step."""

    def __init__(self, method: CLOUDS) -> None:
        self.network: Any = deepcopy(method.network).train()
        self.optimizer = method.shared["optimizer"](method.optimizer_groups())
        trained = dict(zip(method.network.parameters(), self.network.parameters(), strict=True))
        for group in self.optimizer.param_groups:
            group["params"] = [trained[p] for p in group["params"]]

    def step(self, source: Batch, target: Batch) -> None:
        with torch.no_grad():
            view = photometric(source["image"].float() / 255)
            maps = self.network.backbone(self.network.normalize(view))
        head = self.network.head
        terms = head.criterion.terms(head.criterion.sums(head.predictions(maps), source["label"]))
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()


def measure(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of the median step and GB, of a process of its own."""
    turns, method = InTurn(), built(options, *ARMS[arm])
    before = peak_gb()
    train(method, options, turns)
    return {"seconds": median(turns.ours[1:]), "peak": peak_gb(), "before": before}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=DEFAULTS, help="what is compared")
    parser.add_argument("--backbone", help="of conf/backbone")
    parser.add_argument("--size", type=int, nargs=2, help="height and width")
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--steps", type=int, help="timed steps of each arm")
    parser.add_argument("--precision", default="32-true", help="of the trainer")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    for name, value in DEFAULTS[options.part].items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    torch.set_num_threads(1)
    quiet_lightning()
    if options.arm:
        print(json.dumps(measure(options.arm, options)))
        return
    height, width = options.size
    print(f"{options.backbone}, {width}x{height}, {options.batch} images, {options.precision}, "
          "one thread")  # fmt: skip
    if options.part == "step":
        method = built(options)
        turns = InTurn(Bare(method))
        train(method, options, turns)
        ours, theirs = (median(times[1:]) for times in (turns.ours, turns.theirs))
        for name, seconds in (("bare loop", theirs), ("clouds", ours)):
            print(f"{name:12s}{1e3 * seconds:12.1f} CPU ms a step")
        print(f"{'ratio':12s}{ours / theirs:12.3f}")
        return
    in_processes([sys.executable, __file__, *given], ARMS)


if __name__ == "__main__":
    main()
