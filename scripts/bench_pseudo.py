"""Room that pseudo-labels take, and the cost of thresholds on their confidence.

Room: the store against maps in memory as the published code of Uni-UVPT keeps them, an int64
label, an int64 prediction and a float32 confidence for each pixel.

Thresholds: every so many steps, the quantile of each class's confidence over the last prediction
of every image. The sorting arm stacks all predictions, then masks and sorts class by class, as the
published code does; ours keeps a histogram of each class, from which a visit takes the image's old
prediction and to which it adds the new one, and reads the quantile from that. Ours is charged
with all visits between two refreshes, the sorting arm only with the refresh.

Both arms run in one process on one thread, in turn; the numbers are CPU time, the minimum of the
repeats. Read the ratios.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfseg.labels import CITYSCAPES
from sfseg.ops.confidence import class_quantiles, confidence_histogram
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore

CLASSES = CITYSCAPES.num_classes
SHARE = 0.8
TOLERANCE = 1e-3

Prediction = tuple[Tensor, Tensor]
"""(H, W) uint8 classes and float32 confidences."""


def prediction(seed: int, size: tuple[int, int]) -> Prediction:
    """Blobs of classes, with confidences near 1 inside them and low between them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 6, (CLASSES, 6, 6)).astype(np.float32)
    logits = np.stack([cv2.resize(s, size[::-1], interpolation=cv2.INTER_CUBIC) for s in scores])
    confidence, label = torch.from_numpy(logits).softmax(0).max(0)
    return label.to(torch.uint8), confidence


def sort_all(labels: list[Tensor], confidences: list[Tensor]) -> NDArray[np.float32]:
    """Thresholds as published: all pixels of all images, sorted."""
    label, confidence = torch.stack(labels), torch.stack(confidences)
    found = np.full(CLASSES, np.nan, np.float32)
    for k in range(CLASSES):
        values = np.sort(confidence[label == k].numpy())
        if len(values):
            found[k] = values[min(int(np.round(len(values) * SHARE)), len(values) - 1)]
    return found


def count(drawn: Prediction) -> Tensor:
    return confidence_histogram(drawn[1], drawn[0], num_classes=CLASSES)


def least_cpu_ms(arms: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Minimum CPU time of each arm in milliseconds; the arms take turns."""
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.process_time()
            arm()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def thresholds(images: int, crop: int, every: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a refresh by sorting, of one from histograms, and of the visits before it."""
    last = [prediction(k, (crop, crop)) for k in range(images)]
    # As the published code keeps them.
    labels, confidences = [y.long() for y, _ in last], [c for _, c in last]
    total = sum((count(drawn) for drawn in last), torch.zeros(CLASSES, 1, dtype=torch.int64))
    by_sorting, by_histogram = sort_all(labels, confidences), class_quantiles(total, SHARE).numpy()
    error = np.nanmax(np.abs(by_sorting - by_histogram))
    assert np.array_equal(np.isnan(by_sorting), np.isnan(by_histogram)), "absent classes"
    assert error <= TOLERANCE, f"thresholds differ by {error}"

    def visits() -> None:
        kept = total.clone()
        for k in range(every):
            kept -= count(last[k % images])
            kept += count(last[(k + 1) % images])

    best = least_cpu_ms(
        {
            "sort": lambda: sort_all(labels, confidences),
            "visits": visits,
            "quantiles": lambda: class_quantiles(total, SHARE),
        },
        repeats,
    )
    return {**best, "cycle": best["visits"] + best["quantiles"], "error": float(error)}


def report_thresholds(few: int, crop: int, every: int, repeats: int) -> None:
    many = 4 * few
    found = {images: thresholds(images, crop, every, repeats) for images in (few, many)}
    print(f"\nthresholds of {CLASSES} classes, crops of {crop}x{crop}, every {every} steps of one")
    print(f"{'CPU ms a refresh':34s}{few:>7d} images{many:>7d} images{'growth':>9s}")
    for name, title in (
        ("sort", "sorting"),
        ("cycle", f"histograms, with {every} visits"),
        ("quantiles", "histograms, without"),
    ):
        a, b = found[few][name], found[many][name]
        print(f"{title:34s}{a:14.2f}{b:14.2f}{b / a:9.2f}")
    for name, title in (("cycle", "with visits"), ("quantiles", "without")):
        ratios = [found[images]["sort"] / found[images][name] for images in (few, many)]
        print(f"{'ratio to sorting, ' + title:34s}{ratios[0]:14.1f}{ratios[1]:14.1f}")
    worst = max(found[images]["error"] for images in found)
    print(f"largest difference of a threshold: {worst:.6f} (at most {TOLERANCE})")


def memory() -> dict[str, int]:
    """Bytes of this process that are its own, and that are mapped files."""
    status = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in status)
    return {name: int(values[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


def report_room(images: int, size: tuple[int, int]) -> None:
    drawn = [prediction(k, size) for k in range(min(images, 4))]
    pixels = images * size[0] * size[1]
    before = memory()["RssAnon"]
    maps = [
        (label.long(), label.long().clone(), confidence.clone())
        for label, confidence in (drawn[k % len(drawn)] for k in range(images))
    ]
    # Memory that the process had free already does not show as growth.
    own_bytes = sum(tensor.nbytes for kept in maps for tensor in kept)
    published = max(memory()["RssAnon"] - before, own_bytes) / pixels
    del maps
    print(f"bytes a pixel, {images} images of {size[0]}x{size[1]}, all changed since a commit")
    print(f"{'':30s}{'disk':>8s}{'journal':>9s}{'own':>8s}{'mapped':>8s}{'memory ratio':>14s}")
    print(f"{'maps in memory':30s}{0:8.2f}{0:9.2f}{published:8.2f}{0:8.2f}{1:14.2f}")
    for with_confidence in (False, True):
        found = room(drawn, images, size, with_confidence=with_confidence)
        disk, journal, own, mapped = (number / pixels for number in found)
        title = "store, labels" + (" and confidences" if with_confidence else "")
        ratio = (own + mapped) / published
        print(f"{title:30s}{disk:8.2f}{journal:9.2f}{own:8.2f}{mapped:8.2f}{ratio:14.2f}")
    print("mapped: shared by all processes, and given back when the system needs the memory")


def room(
    drawn: list[Prediction], images: int, size: tuple[int, int], *, with_confidence: bool
) -> tuple[int, int, int, int]:
    """Bytes on disk, in the journal, of this process and mapped, once all is written and read."""
    names = [f"{k}.png" for k in range(images)]
    identity = Identity(names, [size] * images, CITYSCAPES.classes, source="bench")
    with tempfile.TemporaryDirectory() as folder:
        before = memory()
        path = Path(folder, "store")
        with PseudoLabelStore.create(path, identity, with_confidence=with_confidence) as store:
            for moved in (0, 1):
                for k in range(images):
                    label, confidence = drawn[(k + moved) % len(drawn)]
                    kept = confidence.numpy() if with_confidence else None
                    store.write(Patch(k, label.numpy(), kept))
                if moved == 0:
                    store.commit()
            for k in range(images):
                store.read(k)
            after = memory()
            used = {p: 512 * p.stat().st_blocks for p in path.rglob("*") if p.is_file()}
        journal = sum(size for p, size in used.items() if p.suffix == ".log")
    grown = (after[name] - before[name] for name in ("RssAnon", "RssFile"))
    return sum(used.values()) - journal, journal, *grown


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=100, help="and four times as many")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--every", type=int, default=200, help="steps between two refreshes")
    parser.add_argument("--quick", action="store_true", help="few small images, one repeat")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.quick:
        report_room(4, (64, 128))
        report_thresholds(2, 32, every=2, repeats=1)
    else:
        report_room(options.images, (512, 1024))
        report_thresholds(options.images, options.crop, options.every, options.repeats)


if __name__ == "__main__":
    main()
