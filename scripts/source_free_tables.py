"""All source-free methods on one task: gain, cost, and what label-free selection is worth.

    python scripts/source_free_tables.py logs/toyscapes eval_every=100 --jobs 2
    python scripts/source_free_tables.py logs/camvid data=camvid_day_to_dusk data.root=<folder>

Settings after the folder go to every run. Runs that have finished are not run again and those that
were interrupted go on, so it may be stopped and started. Prints markdown: mean and sample standard
deviation over seeds of the last checkpoint; then, over all checkpoints of all methods, the rank
correlation of each label-free score with the mIoU, and how much the checkpoint that it picks lies
below the best one of its run.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from scipy.stats import spearmanr
from uniuvpt_tables import ENVIRONMENT, spread

ROWS: dict[str, tuple[str, ...]] = {
    "uniuvpt": (),
    "sfda": (),
    "sfda, ipsm=false": ("method=sfda", "method.ipsm=false"),
    "mean_teacher": (),
    "vpt_elr": (),
    "hcl": (),
    "cpsl": (),
    "cbst": (),
    "urma": (),
    "ld": (),
    "tent": (),
    "bn_adapt": (),
    "minent": (),
    "max_square": (),
}
SWITCHES: dict[str, tuple[str, ...]] = {
    "sfda_transfer, BNS+DAD": ("method=sfda_transfer",),
    "sfda_transfer, DAD": ("method=sfda_transfer", "method.bns_weight=0"),
    "sfda_transfer, BNS": ("method=sfda_transfer", "method.beta=0", "method.tau=0"),
    "mean_teacher, masked=1": ("method=mean_teacher", "method.masked=1"),
    "mean_teacher, dynamic_teacher": ("method=mean_teacher", "method.dynamic_teacher=true"),
    "mean_teacher, mix=none": ("method=mean_teacher", "method.mix=none"),
    "ld, fixed_norms=false": ("method=ld", "method.fixed_norms=false"),
    "ld, entropy_weight=0": ("method=ld", "method.entropy_weight=0"),
    "max_square, IW": ("method=max_square", "method.image_weighting=true"),
    "max_square, trainable=all": ("method=max_square", "method.trainable=all"),
    "bn_adapt, momentum=null": ("method=bn_adapt", "method.momentum=null", "method.decay=0"),
}
HIGHER_IS_BETTER = {"combined": 1, "agreement": 1, "snd": 1, "entropy": -1}
LOCKS: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)


@dataclass(frozen=True)
class Outcome:
    """What one run has found; mIoU in percent.

    before: of the source model, on the domain that the row is about.
    after: of the adapted one.
    minutes, peak, trainable: of ``cost.json``.
    """

    before: float
    after: float
    minutes: float
    peak: float
    trainable: int


def run(folder: Path, name: str, settings: Sequence[str], seed: int, common: Sequence[str]) -> None:
    """One adaptation, unless its results are there."""
    target = place(folder, name, seed)
    if (target / "results.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "sfseg.commands.train", *common, *settings, f"seed={seed}",
        f"hydra.run.dir={target}", "resume=auto", "trainer=cpu", "~callbacks.panels",
    ]  # fmt: skip
    # Runs of one seed share a source model, which one of them trains; the others would wait.
    waits = (not any(target.parent.parent.glob(f"*/seed{seed}/results.json"))) and LOCKS[seed]
    with waits or threading.Lock(), target.with_suffix(".log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    said = outcome(target) if done.returncode == 0 else f"exit code {done.returncode}, see its log"
    print(f"{name}, seed {seed}: {said}", flush=True)


def place(folder: Path, name: str, seed: int) -> Path:
    """Where a run lies."""
    return folder / name.replace(", ", "-").replace("=", "_") / f"seed{seed}"


def outcome(target: Path) -> Outcome:
    """Read the results of a run."""
    results = json.loads((target / "results.json").read_text())
    cost = json.loads((target / "cost.json").read_text())
    # A network that is taught what the source model knows is judged on the source.
    scores = results["source" if "sfda_transfer" in target.parent.name else "target"]
    return Outcome(
        100 * scores["source_only"]["summary"]["mIoU"],
        100 * scores["summary"]["mIoU"],
        cost["minutes"],
        cost["peak_memory_mib"],
        cost["trainable_parameters"],
    )


def finished(folder: Path, name: str, seeds: Sequence[int]) -> list[Outcome]:
    """Results of a row's runs, of those that have some."""
    places = [place(folder, name, seed) for seed in seeds]
    return [outcome(target) for target in places if (target / "results.json").is_file()]


def table(folder: Path, rows: Sequence[str], seeds: Sequence[int]) -> str:
    """Markdown: methods in the order of their gain."""
    found = {name: finished(folder, name, seeds) for name in rows}
    lines = [
        "| method | runs | source-only | adapted | gain | worst gain | minutes | peak MiB | "
        "trainable |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    gains = {name: [o.after - o.before for o in own] for name, own in found.items() if own}
    for name in sorted(gains, key=lambda n: -statistics.fmean(gains[n])):
        own = found[name]
        lines.append(
            f"| {name} | {len(own)} | {spread([o.before for o in own])} | "
            f"{spread([o.after for o in own])} | {spread(gains[name])} | {min(gains[name]):+.2f} | "
            f"{statistics.fmean(o.minutes for o in own):.1f} | {max(o.peak for o in own):,.0f} | "
            f"{own[0].trainable:,} |"
        )
    return "\n".join(lines)


def measured(
    folder: Path, rows: Sequence[str], seeds: Sequence[int]
) -> Iterator[list[dict[str, str]]]:
    """Label-free measurements of every finished run, where the mIoU is known too."""
    for name, seed in product(rows, seeds):
        path = place(folder, name, seed) / "label_free.csv"
        if path.is_file() and (path.parent / "results.json").is_file():
            with path.open() as file:
                yield [row for row in csv.DictReader(file) if row["target_mIoU"]]


def selection(folder: Path, rows: Sequence[str], seeds: Sequence[int]) -> str:
    """Markdown: what every label-free score knows of the mIoU."""
    runs = list(measured(folder, rows, seeds))
    points = [point for run in runs for point in run]
    lines = [
        f"{len(points)} checkpoints of {len(runs)} runs\n",
        "| score | rank correlation | within a run, mean | below the best of the run | "
        "last below it |",
        "|---|---:|---:|---:|---:|",
    ]
    for score, sign in HIGHER_IS_BETTER.items():
        pairs = [
            [(sign * float(p[score]), 100 * float(p["target_mIoU"])) for p in run] for run in runs
        ]
        overall = spearmanr(*zip(*[pair for run in pairs for pair in run], strict=True)).statistic
        inside = [spearmanr(*zip(*run, strict=True)).statistic for run in pairs if len(run) > 2]
        inside = [value for value in inside if value == value]
        behind = [max(m for _, m in run) - max(run)[1] for run in pairs]
        last = [max(m for _, m in run) - run[-1][1] for run in pairs]
        lines.append(
            f"| {score} | {overall:.2f} | {statistics.fmean(inside):.2f} | {spread(behind)} | "
            f"{spread(last)} |"
        )
    return "\n".join(lines)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The command line of a script that runs rows and prints their table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", help="of every run, as sfseg-train takes them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--only", nargs="+", default=[], help="these rows alone")
    parser.add_argument("--show", action="store_true", help="print the tables, run nothing")
    return parser


def run_rows(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    rows: Mapping[str, Sequence[str]],
) -> Path:
    """Run the rows that were asked for, unless they are to be shown alone; their folder."""
    folder: Path = arguments.folder.absolute()
    if unknown := set(arguments.only) - set(rows):
        parser.error(f"--only {sorted(unknown)}: rows are {', '.join(rows)}")
    chosen = {name: rows[name] for name in arguments.only} or rows
    if not arguments.show:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for seed, (name, settings) in product(arguments.seeds, chosen.items()):
                settings = settings or (f"method={name}",)
                pool.submit(run, folder, name, settings, seed, arguments.settings)
    return folder


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--switches", action="store_true", help="rows of switches too")
    arguments = parser.parse_args()
    rows = ROWS | SWITCHES if arguments.switches or arguments.only else ROWS
    folder = run_rows(parser, arguments, rows)
    everything = ROWS | SWITCHES
    print(f"\n{table(folder, list(everything), arguments.seeds)}\n")
    print(selection(folder, [n for n in everything if "transfer" not in n], arguments.seeds))


if __name__ == "__main__":
    main()
