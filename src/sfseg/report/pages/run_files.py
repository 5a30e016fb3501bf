"""What a run's folder holds, read as a stranger's: any of it may be missing, damaged or older."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sfseg.errors import DataError
from sfseg.nesting import require_small
from sfseg.report.pages.csv_files import Columns, Row, read_columns, read_rows
from sfseg.report.scores_file import RESULTS, Scored, scored
from sfseg.storage.lock import is_held

RECORD, LOCK, FINISHED = "run.json", ".lock", "finished"
PANEL = re.compile(r"step_(\d{1,12})\.png")
MOST_BYTES = 64 << 20
"""Of a file that is read whole; none that a run writes has that many."""
MOST_PIXELS = 1 << 50
Content = TypeVar("Content")
Counts = list[list[int]]


@dataclass
class RunFiles:
    """What was found. Of files that are not there, empty containers.

    record: ``run.json``.
    config: settings as they were composed, interpolations unresolved.
    resolved: the same with values.
    overrides: settings of the command line.
    scores: of each set that was evaluated in the end.
    images: how many each of these has, where that was counted.
    selection: of ``results.json``: ``mode`` and ``step``, where the last weights are not shown.
    confusion: of each set, pixels by label and prediction: ``counts``, ``source_only``.
    cost: ``cost.json``.
    metrics: ``csv/metrics.csv``.
    label_free, corrections, early_learning: rows of their files.
    panels: pictures of predictions by step.
    sheet: what is where in them.
    is_open: whether a process writes to the folder.
    damaged: files that could not be used, and why.
    """

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    scores: dict[str, Scored] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    confusion: dict[str, dict[str, Counts]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    metrics: Columns = field(default_factory=Columns)
    label_free: list[Row] = field(default_factory=list)
    corrections: list[Row] = field(default_factory=list)
    early_learning: list[Row] = field(default_factory=list)
    panels: dict[int, Path] = field(default_factory=dict)
    sheet: dict[str, Any] = field(default_factory=dict)
    is_open: bool = False
    damaged: list[str] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether the run says that it is complete."""
        return FINISHED in self.record

    @property
    def judged(self) -> str | None:
        """The set that the run is judged by: the first of its results."""
        return next(iter(self.scores), None)

    def setting(self, name: str) -> Any:
        """A setting's value; None where there is none of this name."""
        node: Any = self.resolved
        for key in name.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder.

    Raises:
        DataError: it is none.
    """
    if not folder.is_dir():
        raise DataError(f"run={folder} is no folder; name that of a run, logs/train/runs/<date>")
    if not (folder / RECORD).is_file() and not (folder / RESULTS).is_file():
        raise DataError(
            f"run={folder} has neither {RECORD} nor {RESULTS}, so no run of sfseg-train has begun "
            f"there; {_nearby(folder)}"
        )
    run = RunFiles(folder)
    run.record = _read(run, RECORD, _json, {})
    run.config = _read(run, ".hydra/config.yaml", _settings, {})
    run.resolved = _read(run, ".hydra/resolved.yaml", _settings, {})
    run.overrides = _read(run, ".hydra/overrides.yaml", _words, [])
    results = _scored_sets(run, _read(run, RESULTS, _json, {}))
    run.scores = _read(run, RESULTS, lambda _: _scores(results), {})
    run.images = {k: p["images"] for k, p in results.items() if _is_count(p.get("images"))}
    run.selection = next((p["selection"] for p in results.values() if _has_selection(p)), {})
    run.confusion = _read(run, "confusion.json", lambda path: _confusion(path, run.scores), {})
    run.cost = _read(run, "cost.json", _numbers, {})
    run.metrics = _read(run, "csv/metrics.csv", read_columns, Columns())
    run.label_free = _read(run, "label_free.csv", read_rows, [])
    run.corrections = _read(run, "label_correction.csv", read_rows, [])
    run.early_learning = _read(run, "early_learning.csv", read_rows, [])
    run.sheet = _read(run, "panels/sheet.json", _json, {})
    run.panels = _panels(folder / "panels")
    run.is_open = is_held(folder / LOCK)
    if run.metrics.damaged:
        run.damaged.append(f"csv/metrics.csv: {run.metrics.damaged} lines are damaged, left out")
    return run


def _nearby(folder: Path) -> str:
    """Which folders below are runs."""
    inside = sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
    if not inside:
        return "name a folder of logs/train/runs"
    named = ", ".join(map(str, inside[:3])) + (", ..." if inside[3:] else "")
    return f"name one of the {len(inside)} below it: {named}"


def _read(run: RunFiles, name: str, read: Callable[[Path], Content], otherwise: Content) -> Content:
    """The content of a file; what cannot be used is noted once."""
    path = run.folder / name
    if not path.is_file():
        return otherwise
    try:
        return read(path)
    except (
        OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
        RecursionError, yaml.YAMLError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        run.damaged.append(f"{name}: {type(error).__name__}: {reason}")
        return otherwise


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return path.read_text(encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(_text(path))
    if not isinstance(content, dict):
        raise TypeError(f"a {type(content).__name__} in place of names and values")
    return content


def _yaml(path: Path) -> Any:
    # By libyaml where PyYAML has it, which takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(_text(path), Loader=loader)
    require_small(content, path.name)
    return content


def _settings(path: Path) -> dict[str, Any]:
    content = _yaml(path)
    if not isinstance(content, dict):
        raise TypeError(f"a {type(content).__name__} in place of settings")
    return content


def _words(path: Path) -> list[str]:
    return [str(word) for word in _yaml(path) or []]


def _numbers(path: Path) -> dict[str, Any]:
    return {k: v for k, v in _json(path).items() if isinstance(v, int | float | str)}


def _scored_sets(run: RunFiles, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is of a set; entries that another version may have beside them are noted."""
    found = {}
    for name, part in content.items():
        if isinstance(part, dict) and {"summary", "IoU"} & set(part):
            found[name] = part
        else:
            run.damaged.append(f"{RESULTS}: {name} holds no scores")
    return found


def _scores(results: Mapping[str, Any]) -> dict[str, Scored]:
    if empty := [name for name, part in results.items() if not part["IoU"]]:
        raise ValueError(f"{empty[0]} has no classes")
    return {
        name: scored({"protocol": "", **part}, list(part["IoU"])) for name, part in results.items()
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _has_selection(part: Any) -> bool:
    chosen = part.get("selection")
    return isinstance(chosen, dict) and {"mode", "step"} <= set(chosen)


def _confusion(path: Path, scores: Mapping[str, Scored]) -> dict[str, dict[str, Counts]]:
    found: dict[str, dict[str, Counts]] = {}
    for domain, part in _json(path).items():
        size = len(part["classes"])
        if domain in scores and list(scores[domain].iou) != part["classes"]:
            raise ValueError(f"{domain} has other classes than in {RESULTS}")
        for key in ("source_only", "counts"):
            if key not in part:
                continue
            matrix = [[int(n) for n in row] for row in part[key]]
            if len(matrix) != size or not all(_is_row(row, size) for row in matrix):
                raise ValueError(f"{key} of {domain} is no matrix of {size} classes")
            found.setdefault(domain, {})[key] = matrix
    return found


def _is_row(row: list[int], size: int) -> bool:
    return len(row) == size and min(row) >= 0 and max(row) < MOST_PIXELS


def _panels(folder: Path) -> dict[int, Path]:
    """Pictures by step, rising."""
    named = ((PANEL.fullmatch(path.name), path) for path in folder.glob("step_*.png"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))
