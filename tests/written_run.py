"""A run's folder as training leaves it, written by hand: small, and whatever a test wants of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import sfseg
from sfseg.report.drawing import CAPTION, sheet, write_png

CLASSES = ("road", "car", "sky")
PALETTE = ((128, 64, 128), (0, 0, 142), (70, 130, 180))
COLUMNS = ("image", "label", "prediction", "error (red)")
BEFORE = [[80, 20, 0], [30, 60, 10], [0, 10, 90]]
AFTER = [[95, 5, 0], [50, 50, 0], [0, 0, 100]]
PROTOCOL = "3 classes, whole images"
TILE = (160, 320)


def iou_of(counts: Sequence[Sequence[int]]) -> list[float | None]:
    """IoU of each class, by its definition."""
    size = range(len(counts))
    union = [sum(counts[k]) + sum(counts[i][k] for i in size) - counts[k][k] for k in size]
    return [counts[k][k] / union[k] if union[k] else None for k in size]


def scores_of(counts: Sequence[Sequence[int]], classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """Summary and IoU as ``results.json`` has them."""
    iou = iou_of(counts)
    known = [value for value in iou if value is not None]
    total = sum(map(sum, counts))
    right = sum(counts[k][k] for k in range(len(counts)))
    return {
        "summary": {
            "mIoU": sum(known) / len(known) if known else None,
            "pixel_accuracy": right / total if total else None,
        },
        "IoU": dict(zip(classes, iou, strict=True)),
    }


def write_run(
    folder: Path,
    *,
    before: Sequence[Sequence[int]] | None = BEFORE,
    after: Sequence[Sequence[int]] = AFTER,
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    finished: bool = True,
) -> Path:
    """Write a run of ten steps that was evaluated at steps 0, 5 and 10; returns its folder.

    Args:
        folder: of the run.
        before: confusion matrix of the source model; None: there was none.
        after: of the adapted one.
        classes: their names.
        seed: of the run.
        config: further settings.
        record: further entries of ``run.json``.
        results: further entries of the target's scores.
        finished: whether it came to its end; if not, it has no scores either.
    """
    part = {"protocol": PROTOCOL, "images": 200, **scores_of(after, classes)}
    counts: dict[str, Any] = {"classes": list(classes), "counts": after}
    if before is not None:
        part["source_only"] = scores_of(before, classes)
        counts["source_only"] = before
    settings = {
        "run_name": f"tent-tiny-street-s{seed}",
        "seed": seed,
        "trainer": {"max_steps": 10},
        "method": {"_target_": "sfseg.methods.tent.Tent", "needs": ["target", "source_model"]},
        **(config or {}),
    }
    whole = {
        "command": ["/bin/sfseg-train", "method=tent", f"seed={seed}"],
        "started": "2026-01-02T03:04:05+00:00",
        "host": "a",
        "versions": {"sfseg": sfseg.__version__},
        "git": None,
        "tags": [],
        "seed": seed,
        "restarts": [],
        **({"finished": {"metric": 0.5}} if finished else {}),
        **(record or {}),
    }
    write(folder / "run.json", json.dumps(whole))
    for name in ("config", "resolved"):
        write(folder / ".hydra" / f"{name}.yaml", yaml.safe_dump(settings))
    write(folder / ".hydra" / "overrides.yaml", yaml.safe_dump(["method=tent", f"seed={seed}"]))
    write_metrics(folder, range(10 if finished else 7))
    write(folder / "label_free.csv", LABEL_FREE)
    write_panels(folder / "panels", (0, 10))
    if finished:
        write(folder / "results.json", json.dumps({"target": {**part, **(results or {})}}))
        write(folder / "confusion.json", json.dumps({"target": counts}))
        cost = {"minutes": 2.0, "steps": 10, "peak_memory_mib": 512.0, "memory": "process",
                "parameters": 1000, "trainable_parameters": 100, "processes": 1,
                "images_per_second": 4.0}  # fmt: skip
        write(folder / "cost.json", json.dumps(cost))
    return folder


LABEL_FREE = (
    "step,iteration,combined,agreement,snd,entropy,classes,vanished,has_collapsed,target_mIoU\n"
    "0,0,0.5,0.8,4,0.4,3,,False,0.6\n5,5,0.7,0.85,4,0.3,3,,False,0.65\n"
    "10,10,0.69,0.85,4,0.3,3,,False,0.7\n"
)


def write(path: Path, text: str) -> None:
    """Write a text; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_metrics(folder: Path, steps: Sequence[int]) -> None:
    """A loss at every step, as Lightning's columns have it, and two evaluations."""
    lines = ["epoch,source_only/target/mIoU,step,train/loss,val/target/mIoU", "0,0.6,0,,"]
    for step in steps:
        lines.append(f"0,,{step},{1 / (step + 1)},")
        if step in (4, 9):
            lines.append(f"0,,{step},,{0.6 + step / 100}")
    write(folder / "csv" / "metrics.csv", "".join(f"{line}\r\n" for line in lines))


def tile(number: int) -> np.ndarray:
    """A picture that tells its number: one grey."""
    return np.full((*TILE, 3), number, np.uint8)


def write_panels(folder: Path, steps: Sequence[int], rows: int = 2) -> None:
    """Sheets whose tiles are grey: 40 + 10 * row + column, prediction and error also by step."""
    for step in steps:
        grey = [
            ("target", [tile(40 + 10 * row + column + (100 if column > 1 and step else 0))
                        for column in range(4)])
            for row in range(rows)
        ]  # fmt: skip
        write_png(folder / f"step_{step:06d}.png", sheet(grey, COLUMNS))
    layout = {
        "rows": ["target"] * rows, "columns": COLUMNS, "caption": CAPTION, "tile": TILE,
        "classes": CLASSES, "palette": PALETTE,
    }  # fmt: skip
    write(folder / "sheet.json", json.dumps(layout))
