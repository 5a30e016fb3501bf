"""An exported network in ONNX Runtime beside torch, on one core.

Both arms take the same uint8 image to logits of its size, in single precision and on one thread,
and take turns. The number is CPU seconds, the median of the repeats after a warm-up. The logits of
both must agree. The goals are 0.28 of torch's time for tiny, 0.5 for mit_b0, 0.55 for
resnet50_deeplabv3 and swin_t, at 512x1024.

The floor is what the network's multiplications and additions take at the rate of a large product of
matrices, measured in the same turns: no runtime that computes in float32 by ordinary convolutions
can be much faster than that. Eight bits can.

    python scripts/bench_export.py
    python scripts/bench_export.py --backbone mit_b0 --size 256 512
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch.utils.flop_counter import FlopCounterMode

from sfseg.config.composition import CONF, build
from sfseg.export.agreement import compare, require_agreement
from sfseg.export.deployed import Deployed
from sfseg.export.int8 import in_eight_bits
from sfseg.export.onnx_file import OnnxRuntime, onnx_file
from sfseg.export.tracing import traced

SIDE = 1024
BACKBONES = ("tiny", "mit_b0", "resnet50_deeplabv3", "swin_t")


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def floor_seconds(operations: int) -> float:
    """Of so many operations, at the rate of a product of matrices on one thread."""
    matrix = torch.randn(SIDE, SIDE)
    spent = seconds(lambda: matrix @ matrix)
    return operations / (2 * SIDE**3 / spent)


def bench(backbone: str, size: Sequence[int], repeats: int) -> float:
    """Print and return ONNX Runtime's time over torch's."""
    torch.manual_seed(0)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"backbone={backbone}", "backbone.pretrained=false"])
    model = Deployed(build(cfg.backbone.network, num_classes=19), "logits").eval()
    start = time.process_time()
    proto = onnx_file(traced(model), model.names, {})
    file = proto.SerializeToString()
    export = time.process_time() - start
    run = OnnxRuntime(file, threads=1)
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    require_agreement(model, compare(model, run, [image[..., : size[0] // 2, : size[1] // 2]]))
    one = image[:1]
    arms: dict[str, Callable[[], Any]] = {"torch": lambda: model(one), "onnx": lambda: run(one)}
    quantised = in_eight_bits(proto, [one])
    small = OnnxRuntime(quantised.SerializeToString(), threads=1)
    arms["int8"] = lambda: small(one)
    times: dict[str, list[float]] = {name: [] for name in (*arms, "floor")}
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(one)
        operations = counter.get_total_flops()
        for turn in range(repeats + 1):
            for name, work in arms.items():
                spent = seconds(work)
                if turn:
                    times[name].append(spent)
            if turn:
                times["floor"].append(floor_seconds(operations))
    eager, onnx, int8, floor = (statistics.median(spent) for spent in times.values())
    print(
        f"{backbone}, {size[0]}x{size[1]}: torch {eager:.2f} s, ONNX Runtime {onnx:.2f} s, ratio "
        f"{onnx / eager:.2f}; in eight bits {int8 / eager:.2f}; the floor {floor / eager:.2f} "
        f"({operations / 1e9:.0f} billion operations); export {export:.0f} s, "
        f"{len(file) / 1e6:.0f} MB"
    )
    return onnx / eager


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--size", nargs=2, type=int, default=(512, 1024))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    for backbone in options.backbone:
        bench(backbone, options.size, options.repeats)


if __name__ == "__main__":
    main()
