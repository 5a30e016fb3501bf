"""Sweeps: what is refused before them, and the table at their end: mean and spread over seeds."""

import json
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sfseg.errors import ConfigError
from sfseg.storage.atomic import write_whole

log = logging.getLogger(__name__)

Job = tuple[list[str], dict[str, Any]]
"""Overrides of a job, and its results, to which ``cost`` is added where it was measured."""
SEEDS = ("seed=", "data.shot_seed=")
"""Settings over which results are means."""
ADDED = ("source-only ", "gain ")
"""Columns of adapted models beside the scores of their domains."""
Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


class SweepTable(Callback):
    """Gathers ``results.json`` of all jobs; jobs that differ only in their seed share a row.

    Its files are written again after every job: those that worked are in them, whatever the others
    do. Hydra calls the end of a sweep only where no job has failed.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.sweep.dir)
            _, rows = write_table(folder)
            if job_return.status == JobStatus.FAILED and rows:
                log.info("table of the jobs that worked: %s", folder / "summary.md")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from sfseg.report import tables

        folder = Path(config.hydra.sweep.dir)
        header, rows = write_table(folder)
        if not rows:
            return
        shown = essential(header)
        tables.show(
            f"{folder.name}: mean +- standard deviation over seeds",
            [header[i] for i in shown],
            [[cells[i] for i in shown] for cells in rows],
        )
        log.info("table: %s", folder / "summary.md")


def write_table(folder: Path) -> Table:
    """Write the table of a sweep's folder, unless no job has finished; returns it."""
    from sfseg.report import tables

    header, rows = sweep_table(read_jobs(folder))
    if rows:
        markdown = tables.to_markdown(header, rows).encode()
        tables.write_csv(folder / "summary.csv", header, rows)
        write_whole(folder / "summary.md", lambda file: file.write(markdown))
    return header, rows


def read_jobs(folder: Path) -> list[Job]:
    """Jobs of a sweep that have finished, in the order of their numbers."""
    import yaml

    jobs = []
    for path in sorted(folder.glob("*/results.json"), key=lambda p: (len(p.parent.name), p)):
        overrides = yaml.safe_load((path.parent / ".hydra" / "overrides.yaml").read_text())
        results = json.loads(path.read_text())
        if (cost := path.parent / "cost.json").exists():
            results["cost"] = json.loads(cost.read_text())
        jobs.append((overrides, results))
    return jobs


def sweep_table(jobs: list[Job]) -> Table:
    """What was swept, number of seeds, and means over seeds, of the run or of its shots.

    Of every domain each summary score, in percent; of adapted models the first score of the target,
    or of the mean over evaluation sets, before, and the gain, whose spread is that of the seeds'
    own gains; what training cost; and, unless all jobs show their last weights, how these were
    selected.
    """
    shared = set.intersection(*(set(overrides) for overrides, _ in jobs)) if jobs else set()
    groups: dict[str, list[dict[str, Any]]] = {}
    for overrides, results in jobs:
        swept = [o for o in overrides if o not in shared and not o.startswith(SEEDS)]
        groups.setdefault(" ".join(swept) or "all", []).append(results)
    header = ["job", "runs"]
    rows = [[name, str(len(members))] for name, members in groups.items()]
    for columns in (score_columns, gain_columns, cost_columns, selection_column):
        titles, cells = columns(list(groups.values()))
        header += titles
        rows = [[*row, *more] for row, more in zip(rows, cells, strict=True)]
    return header, rows


def essential(header: Sequence[str]) -> list[int]:
    """Columns that a terminal has room for; the files hold all.

    Accuracies and memory are left out, where a gain is shown, subsets of classes, and beside a
    mean the sets that it is of.
    """
    from sfseg.metrics import MEAN, averaged

    has_gain = any(name.startswith("gain ") for name in header)
    means = [i for i, name in enumerate(header) if name.split()[-1].startswith("mIoU")]
    subsets = {i for i in means if not header[i].endswith(" mIoU")} if has_gain else set()
    of_domains = {i: header[i].split()[0] for i in means if not header[i].startswith(ADDED)}
    if MEAN in of_domains.values():
        sets = averaged(of_domains.values())
        subsets |= {i for i, domain in of_domains.items() if domain in sets}
    return [
        i
        for i, name in enumerate(header)
        if not name.endswith(("accuracy", "MiB")) and i not in subsets
    ]


Groups = list[list[dict[str, Any]]]
"""Results of the jobs of each row."""


def score_columns(groups: Groups) -> Table:
    """Every summary score of every domain that any job has: methods differ in their domains."""
    from sfseg.report import tables

    columns = list(
        dict.fromkeys(
            (domain, name)
            for results in flat(groups)
            for domain, scores in domains(results).items()
            for name in scores["summary"]
        )
    )
    rows = [
        [
            tables.mean_spread([score(m.get(domain, {}).get("summary", {}), name) for m in members])
            for domain, name in columns
        ]
        for members in groups
    ]
    return [f"{domain} {name}" for domain, name in columns], rows


def gain_columns(groups: Groups) -> Table:
    """The first score before adaptation of what is judged by, and what each seed has gained."""
    from sfseg.report import tables

    adapted = [judged(r) for r in flat(groups) if "source_only" in judged(r)]
    if not adapted:
        return [], [[] for _ in groups]
    name = next(iter(adapted[0]["summary"]))
    rows = []
    for members in groups:
        target = [judged(m) for m in members]
        after = [score(t.get("summary", {}), name) for t in target]
        before = [score(t.get("source_only", {}).get("summary", {}), name) for t in target]
        gains = [b - a for a, b in zip(before, after, strict=True)]
        rows.append([tables.mean_spread(before), tables.mean_spread(gains, signed=True)])
    return [f"{added}{name}" for added in ADDED], rows


def cost_columns(groups: Groups) -> Table:
    """Means over the jobs that have measured what they cost."""
    titles = {"minutes": ("minutes", 1), "peak MiB": ("peak_memory_mib", 0),
              "trainable": ("trainable_parameters", 0)}  # fmt: skip
    if not any("cost" in results for results in flat(groups)):
        return [], [[] for _ in groups]
    rows = []
    for members in groups:
        costs = [m["cost"] for m in members if "cost" in m]
        rows.append(
            [
                f"{statistics.fmean(cost[key] for cost in costs):,.{digits}f}" if costs else "-"
                for key, digits in titles.values()
            ]
        )
    return list(titles), rows


def selection_column(groups: Groups) -> Table:
    """How the shown weights were selected, unless they are the last everywhere."""
    modes = [
        sorted({s.get("selection", {}).get("mode", "last") for m in members for s in
                domains(m).values()})
        for members in groups
    ]  # fmt: skip
    if all(found == ["last"] for found in modes):
        return [], [[] for _ in groups]
    return ["selected"], [[" ".join(found)] for found in modes]


def flat(groups: Groups) -> list[dict[str, Any]]:
    """All results, row after row."""
    return [results for members in groups for results in members]


def domains(results: dict[str, Any]) -> dict[str, Any]:
    """The part of a job's results that are scores of a domain."""
    return {name: part for name, part in results.items() if "summary" in part}


def judged(results: dict[str, Any]) -> dict[str, Any]:
    """What a job is judged by: the mean over its evaluation sets, or its target."""
    from sfseg.metrics import MEAN

    found: dict[str, Any] = results.get(MEAN, results.get("target", {}))
    return found


def score(summary: dict[str, float | None], name: str) -> float:
    """NaN where it is undefined or was not evaluated."""
    value = summary.get(name)
    return math.nan if value is None else value


def refuse_parallel_sweep(cfg: DictConfig) -> None:
    """Several devices a job and ``-m`` do not go together in one process.

    Lightning starts the other ranks by running the whole command again, sweep included.

    Raises:
        ConfigError: with the way out.
    """
    devices = cfg.trainer.get("devices", 1)
    several = str(devices) not in {"1", "auto"} and not (
        OmegaConf.is_list(devices) and len(devices) == 1
    )
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and several and "submitit" not in hydra.launcher._target_:
        raise ConfigError(
            f"-m with trainer.devices={devices} would start every rank's own sweep; use one "
            "device per job (trainer.devices=1, with hydra/launcher=joblib for several at "
            "once), or one job per process: for s in 0 1 2; do sfseg-train seed=$s ...; done, "
            "or hydra/launcher=submitit_slurm"
        )
