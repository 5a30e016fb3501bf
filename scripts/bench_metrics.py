"""Cost of counting one evaluation image: our confusion matrix against torchmetrics'.

All arms run in one process on one thread, in turn, and count the same pixels; the numbers are
CPU time, the minimum of the repeats. Read the ratios: they travel between machines better.
"""

import argparse
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from sfseg.metrics import ConfusionMatrix
from sfseg.types import IGNORE

CLASSES = 19
OURS = "sfseg.metrics.ConfusionMatrix"
DEFAULT = "torchmetrics, default"
UNCHECKED = "torchmetrics, validate_args=False"


def maps(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(prediction, label): uint8 blobs of the size of street objects; 4 % of the labels void."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, CLASSES, height // 32, width // 32, generator=random)
    scores = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    label = scores.argmax(0).to(torch.uint8)
    prediction = label.clone()
    wrong = torch.rand(height, width, generator=random) < 0.2
    prediction[wrong] = torch.randint(
        CLASSES, (int(wrong.sum()),), generator=random, dtype=torch.uint8
    )
    label[torch.rand(height, width, generator=random) < 0.04] = IGNORE
    return prediction, label


def least_cpu_ms(arms: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Minimum CPU time of each arm in milliseconds; the arms take turns."""
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.process_time()
            arm()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small maps, one repeat")
    options = parser.parse_args(arguments)
    height, width = (128, 256) if options.quick else options.size
    torch.set_num_threads(1)

    prediction, label = maps(height, width)
    metrics = {
        OURS: ConfusionMatrix(CLASSES),
        DEFAULT: MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE),
        UNCHECKED: MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE, validate_args=False),
    }
    for metric in metrics.values():
        metric.update(prediction, label)
        assert torch.equal(metric.compute(), metrics[OURS].compute()), "arms count differently"
    arms = {
        name: lambda metric=metric: metric.update(prediction, label)
        for name, metric in metrics.items()
    }
    best = least_cpu_ms(arms, 1 if options.quick else options.repeats)

    print(f"update of one {height}x{width} pair, {CLASSES} classes and void, one thread")
    for name, ms in best.items():
        print(f"{name:36s}{ms:9.2f} ms   ratio {ms / best[OURS]:6.1f}")
    return best


if __name__ == "__main__":
    main()
