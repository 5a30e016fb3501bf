"""Tables 2, 3 and 4 of Uni-UVPT on toyscapes, beside the paper's numbers on GTA5 -> Cityscapes.

    python scripts/uniuvpt_tables.py logs/tables --jobs 2

Runs that have finished are not run again, so it may be stopped and started; rows that occur in
several tables are run once. Prints markdown: gain over the source model in mIoU, mean and sample
standard deviation over seeds.
"""

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A row of one table: its words, the paper's mIoU, and how to run it."""

    words: str
    paper: float | None
    settings: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return "-".join(self.settings).replace("method.", "").replace("=", "_") or "full"


NO_PROMPTS = (
    "method.adapter.interactors=0",
    "method.parameter_rules=[{match: '<norm>', weight_decay: 0.0}]",
)
LOCKS: defaultdict[object, threading.Lock] = defaultdict(threading.Lock)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TABLES = {
    "Table 2: prompts": (
        Row("full", 56.24),
        Row("no level embedding", 55.58, ("method.adapter.level_embedding=false",)),
        Row("single-scale stem", 55.52, ("method.adapter.stem=single",)),
        Row("no stem", 55.50, ("method.adapter.stem=none",)),
        Row("one interactor", 55.34, ("method.adapter.interactors=1",)),
        Row("neither generator nor interactors", 55.07, NO_PROMPTS),
    ),
    "Table 3: correction of pseudo-labels": (
        Row("online", 56.24),
        Row("ELR", 55.60, ("method.correction=elr",)),
        Row("offline", 55.47, ("method.correction=offline",)),
        Row("none (not in the paper)", None, ("method.correction=none",)),
    ),
    "Table 4: consistency": (
        Row("both", 56.24),
        Row("feature only", 56.01, ("method.beta=0",)),
        Row("prediction only", 54.26, ("method.alpha=0",)),
        Row("none", 53.81, ("method.alpha=0", "method.beta=0")),
    ),
    "Beside the paper's tables": (
        Row("feature consistency per element", None, ("method.normalize=elements",)),
        Row("variant=release", None, ("method.variant=release",)),
        Row("exponential curve", None, ("callbacks.early_learning.curve=exponential",)),
        Row("mild shift", None, ("data.shift=mild",)),
        Row("severe shift", None, ("data.shift=severe",)),
        Row("from GtA's source model", None, ("source_model=source_gta",)),
        Row("GtA", None, ("method=gta",)),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What one run has found: mIoU in percent, and of its label correction, if it had one.

    before: of the source model.
    after: of the adapted one.
    classes: how many were corrected.
    right: shares of corrected pixels that were right before and after.
    """

    before: float
    after: float
    classes: int
    right: tuple[float, float] | None


def place(folder: Path, row: Row, seed: int) -> Path:
    """Where a run lies."""
    name = re.sub(r"[^a-z0-9_.-]", "", row.folder)
    return folder / name / f"seed{seed}"


def run(folder: Path, row: Row, seed: int) -> None:
    """One adaptation, unless its results are there."""
    target = place(folder, row, seed)
    if (target / "results.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)  # what an interrupted run left
    command = [
        sys.executable, "-m", "sfseg.commands.train", "method=uniuvpt", *row.settings,
        f"seed={seed}", f"hydra.run.dir={target}", "trainer=cpu", "~callbacks.panels",
    ]  # fmt: skip
    # Two runs that need the same source model must not train it at the same time; a shift changes
    # the target only.
    key = (seed, *(s for s in row.settings if s.startswith(("source_model", "method=g"))))
    with LOCKS[key], target.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True, env=ENVIRONMENT)
    print(f"{row.words}, seed {seed}: {outcome(target)}", flush=True)


def outcome(target: Path) -> Outcome:
    """Read the results of a run."""
    scores = json.loads((target / "results.json").read_text())["target"]
    openings = []
    if (target / "label_correction.csv").is_file():
        with (target / "label_correction.csv").open() as file:
            openings = list(csv.DictReader(file))
    known = sum(int(opening["known"]) for opening in openings)
    right = [sum(int(o[f"right_{when}"]) for o in openings) for when in ("before", "after")]
    return Outcome(
        100 * scores["source_only"]["summary"]["mIoU"],
        100 * scores["summary"]["mIoU"],
        len({opening["class"] for opening in openings}),
        (right[0] / known, right[1] / known) if known else None,
    )


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} +- {statistics.stdev(values):.2f}"


def table(folder: Path, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """Markdown of one table; rows without a finished run are left out."""
    lines = [
        "| | paper | runs | source-only | adapted | gain | worst gain | classes corrected | "
        "right before -> after |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        places = [place(folder, row, seed) for seed in seeds]
        found = [outcome(target) for target in places if (target / "results.json").is_file()]
        if not found:
            continue
        gains = [o.after - o.before for o in found]
        rights = [o.right for o in found if o.right is not None]
        shown = " -> ".join(f"{statistics.fmean(r):.0%}" for r in zip(*rights, strict=True))
        classes = f"{min(o.classes for o in found)} to {max(o.classes for o in found)}"
        lines.append(
            f"| {row.words} | {row.paper or '-'} | {len(found)} | "
            f"{spread([o.before for o in found])} | {spread([o.after for o in found])} | "
            f"{spread(gains)} | {min(gains):+.2f} | {classes if rights else '-'} | {shown or '-'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--only", default="", help="rows whose words contain this")
    parser.add_argument("--show", action="store_true", help="print the tables, run nothing")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    rows = [row for table_rows in TABLES.values() for row in table_rows]
    chosen = {row.folder: row for row in rows if arguments.only in row.words}
    if not chosen:
        parser.error(f"--only {arguments.only!r}: no row has these words")
    if not arguments.show:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = product(chosen.values(), arguments.seeds)
            list(pool.map(lambda job: run(folder, *job), jobs))
    for title, table_rows in TABLES.items():
        print(f"\n{title}\n\n{table(folder, table_rows, arguments.seeds)}")


if __name__ == "__main__":
    main()
