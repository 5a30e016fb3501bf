"""The table at the end of a multirun: mean and spread over seeds."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Gathers ``results.json`` of all jobs; jobs that differ only in their seed share a row."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from sfseg import tables

        folder = Path(config.hydra.sweep.dir)
        header, rows = sweep_table(read_jobs(folder))
        if not rows:
            return
        (folder / "summary.csv").write_text(tables.to_csv(header, rows))
        (folder / "summary.md").write_text(tables.to_markdown(header, rows))
        # The files hold everything; a terminal has room for the mean IoUs.
        shown = [i for i, name in enumerate(header) if not name.endswith("accuracy")]
        tables.show(
            f"{folder.name}: mean +- standard deviation over seeds",
            [header[i] for i in shown],
            [[cells[i] for i in shown] for cells in rows],
        )
        log.info("table: %s", folder / "summary.md")


Job = tuple[list[str], dict[str, Any]]
"""Overrides and results of one job."""


def read_jobs(folder: Path) -> list[Job]:
    """Jobs of a sweep that have finished, in the order of their numbers."""
    import yaml

    jobs = []
    for path in sorted(folder.glob("*/results.json"), key=lambda p: (len(p.parent.name), p)):
        overrides = yaml.safe_load((path.parent / ".hydra" / "overrides.yaml").read_text())
        jobs.append((overrides, json.loads(path.read_text())))
    return jobs


def sweep_table(jobs: list[Job]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what was swept, number of seeds, and each summary score in percent."""
    from sfseg import tables

    shared = set.intersection(*(set(overrides) for overrides, _ in jobs)) if jobs else set()
    groups: dict[str, list[dict[str, Any]]] = {}
    for overrides, results in jobs:
        swept = [o for o in overrides if o not in shared and not o.startswith("seed=")]
        groups.setdefault(" ".join(swept) or "all", []).append(results)
    # Methods differ in whether they evaluate the source: all columns that any job has.
    columns = list(
        dict.fromkeys(
            (domain, name)
            for _, results in jobs
            for domain, scores in results.items()
            for name in scores["summary"]
        )
    )
    header = ["job", "runs", *(f"{domain} {name}" for domain, name in columns)]
    rows = []
    for name, members in groups.items():
        cells = [name, str(len(members))]
        for domain, score in columns:
            values = [m.get(domain, {}).get("summary", {}).get(score) for m in members]
            cells.append(tables.mean_spread([math.nan if v is None else v for v in values]))
        rows.append(cells)
    return header, rows
