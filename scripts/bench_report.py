"""What the page on a long run costs, beside one evaluation pass of a small network.

The run has 40,000 logged steps, an evaluation and a picture every 80 of them, and 500 evaluation
images on the first and the last picture. The pass is of ``tiny`` on 500 images of 1024x512, without
reading files: some of them are timed, and the rest counted as alike.

    python scripts/bench_report.py [--quick]
"""

import argparse
import csv
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from sfseg.commands.run_report import write_report
from sfseg.config.composition import CONF, build, plain
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.labels import CITYSCAPES
from sfseg.metrics import ConfusionMatrix
from sfseg.ops.inference import label_map
from sfseg.report.drawing import CAPTION, colourise, error_map, sheet, tile_size, write_png

IMAGES, STEPS, EVERY = 500, 40_000, 80
SIZE = (512, 1024)
LIMIT, LARGEST = 0.05, 10.0
"""Of the time of a pass, and of the page in MB."""
COLUMNS = ("image", "label", "prediction", "error (red)")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, images and rows")
    quick = parser.parse_args(arguments).quick
    steps, rows, timed, size = (2_000, 6, 1, (64, 128)) if quick else (STEPS, IMAGES, 20, SIZE)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["data.size=[512,1024]"])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_run(folder, plain(cfg, resolve=False), steps, rows, size)
        write_report(folder, folder / "warm.html")
        start = time.perf_counter()
        megabytes = write_report(folder, folder / "report.html") / 1e6
        report = time.perf_counter() - start
    network = build(cfg.backbone.network, num_classes=CITYSCAPES.num_classes).eval()
    evaluation = evaluation_pass(network, timed, size) * IMAGES / timed
    print(f"page on {steps:,} steps and {rows} pictures: {report:.2f} s, {megabytes:.1f} MB")
    print(f"evaluation of {IMAGES} images of {size}: {evaluation:.1f} s, from {timed} of them")
    print(f"ratio {report / evaluation:.4f}, limit {LIMIT}; MB {megabytes:.1f}, limit {LARGEST}")


def evaluation_pass(network: torch.nn.Module, images: int, size: tuple[int, int]) -> float:
    """Seconds of predictions and their counts, after a first one."""
    image = torch.rand(1, 3, *size)
    label = torch.zeros(1, *size, dtype=torch.uint8)
    confusion = ConfusionMatrix(CITYSCAPES.num_classes)
    with torch.no_grad():
        for k in range(images + 1):
            if k == 1:
                start = time.perf_counter()
            confusion.update(label_map(network(image), size), label)
    return time.perf_counter() - start


def make_run(
    folder: Path, config: dict[str, object], steps: int, rows: int, size: tuple[int, int]
) -> None:
    """A finished run's folder, of numbers and pictures that mean nothing."""
    rng = np.random.default_rng(0)
    names = CITYSCAPES.classes
    iou = dict(zip(names, rng.random(19).tolist(), strict=True))
    part = {"summary": {"mIoU": float(np.mean(list(iou.values())))}, "IoU": iou}
    results = {"target": {"protocol": "19 classes", "images": rows, **part, "source_only": part}}
    counts = rng.integers(0, 1_000_000, (2, 19, 19)).tolist()
    confusion = {"classes": list(names), "counts": counts[0], "source_only": counts[1]}
    record = {"seed": 0, "finished": {"metric": 0.5}, "versions": {}}
    for name, content in (
        ("results.json", results), ("confusion.json", {"target": confusion}), ("run.json", record),
        (".hydra/config.yaml", config), (".hydra/overrides.yaml", []),
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    write_metrics(folder / "csv" / "metrics.csv", steps, rng)
    write_panels(folder / "panels", steps, rows, size)


def write_metrics(path: Path, steps: int, rng: np.random.Generator) -> None:
    """Every step's losses and, now and then, all scores of an evaluation."""
    losses = ["train/loss", "train/lr", *(f"train/term_{k}" for k in range(6))]
    scores = ["val/target/mIoU", *(f"val/target/IoU/{name}" for name in CITYSCAPES.classes)]
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", *losses, *scores])
        for step in range(steps):
            writer.writerow([0, step, *rng.random(len(losses)), *[""] * len(scores)])
            if (step + 1) % EVERY == 0:
                writer.writerow([0, step, *[""] * len(losses), *rng.random(len(scores))])


def write_panels(folder: Path, steps: int, rows: int, size: tuple[int, int]) -> None:
    """Sheets of drawn scenes; all but the first are the same file."""
    drawn = Toyscapes("city", "test", length=1, size=size)
    image, label = drawn.image(0), drawn.label(0)
    tiles = [image[::2, ::2], *(colourise(label, CITYSCAPES.palette)[::2, ::2],) * 2]
    tiles.append(error_map(np.roll(label, 9, axis=1), label)[::2, ::2])
    picture = sheet([("target", [np.ascontiguousarray(tile) for tile in tiles])] * rows, COLUMNS)
    first, again = folder / "step_000000.png", folder / f"step_{steps:06d}.png"
    write_png(first, picture)
    shutil.copy(first, again)
    for step in range(EVERY, steps, EVERY):
        (folder / f"step_{step:06d}.png").hardlink_to(again)
    width, height = tile_size(tiles[0])
    layout = {
        "rows": ["target"] * rows, "columns": COLUMNS, "caption": CAPTION,
        "tile": [height, width], "classes": CITYSCAPES.classes, "palette": CITYSCAPES.palette,
    }  # fmt: skip
    (folder / "sheet.json").write_text(json.dumps(layout))


if __name__ == "__main__":
    main()
