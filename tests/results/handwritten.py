"""Records of rows that no run has made, and a folder of docs that holds them."""

import copy
import sys
from pathlib import Path
from typing import Any

import yaml
from scripting import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import sfseg

COST = {
    "minutes": 2.0, "cpu_minutes": 1.5, "images_per_second": 3.0, "peak_memory_mib": 1000.0,
    "memory": "process", "parameters": 9, "trainable_parameters": 5, "processes": 1, "steps": 300,
}  # fmt: skip
CURVE = {
    "step": [0, 1, 2],
    "combined": [0.5, 0.6, 0.7],
    "agreement": [0.5, 0.4, 0.6],
    "snd": [1.0, 2.0, 3.0],
    "entropy": [0.3, 0.2, 0.1],
}


def scores(miou: float) -> dict[str, Any]:
    return {"summary": {"mIoU": miou}, "IoU": {"road": miou, "train": None}}


def finished(after: float, *, before: float = 0.4, **changes: Any) -> dict[str, Any]:
    """A seed that has gone from ``before`` to ``after``; ``changes`` are of its first level."""
    seed = {
        "status": "finished",
        "date": "2026-01-01T00:00:00+00:00",
        "sfseg": {"version": sfseg.__version__, "commit": "c" * 40, "dirty": False},
        "machine": {"processor": "Abacus 9", "cores": 2, "threads": 1, "system": "Linux",
                    "device": "cpu"},
        "versions": {"python": "3.11", "torch": "2.14.1", "sfseg": sfseg.__version__},
        "protocol": "19 classes",
        "checkpoint": "last",
        "steps": 300,
        "cost": dict(COST),
        "source_model": "0" * 16,
        "weights": "f" * 64,
        "scores": {"target": {"source_only": scores(before), "adapted": scores(after)}},
        "curve": {**CURVE, "target_mIoU": [before, before + 0.08, after]},
        "correction": None,
    }  # fmt: skip
    return {**copy.deepcopy(seed), **changes}


def failed(reason: str) -> dict[str, Any]:
    """A seed that has failed."""
    kept = finished(0.5)
    begun = {key: kept[key] for key in ("date", "sfseg", "machine")}
    return {"status": "failed", **begun, "reason": reason}


def docs_of(
    folder: Path, tables: dict[str, Any], page: str = "", *, seeds: tuple[int, ...] = (0, 1)
) -> Path:
    """A folder of docs with definitions and a page."""
    (folder / "results").mkdir(parents=True)
    content = {"seeds": list(seeds), "every": ["trainer=cpu"], "tables": tables}
    (folder / "results" / "rows.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "results.md").write_text(page)
    return folder
