"""What a run has logged, read back from W&B's file in its folder, or from its CSV file."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfseg.errors import DataError
from sfseg.report.dashboard import SCORE
from sfseg.report.loggers import ID_FILE
from sfseg.report.pages.csv_files import Columns, read_columns
from sfseg.report.wandb_file import WandbFile, read_wandb_file

CSV = Path("csv/metrics.csv")
FOLDER = re.compile(r"[\w-]+")
"""What folders of pictures are called."""


@dataclass
class LoggedRun:
    """Numbers of a run by step, and what else there is to draw.

    label: tells it from the others.
    source: where its numbers were read, for a person.
    metrics: by training step.
    system: measurements of the machine by seconds.
    pictures: names of what was logged as pictures.
    notes: what is missing or damaged.
    """

    folder: Path
    label: str
    source: str = ""
    metrics: Columns = field(default_factory=Columns)
    system: Columns = field(default_factory=Columns)
    pictures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def newest_picture(self, name: str) -> Path | None:
        """The newest file of a logged picture; None where the folder has none."""
        folder = name.split("/")[0]
        if not FOLDER.fullmatch(folder):
            return None
        single = self.folder / f"{folder}.png"
        steps = sorted((self.folder / folder).glob("step_*.png"))
        return steps[-1] if steps else single if single.is_file() else None


def is_logged(folder: Path) -> bool:
    """Whether a run has logged into a folder."""
    return (folder / CSV).is_file() or bool(wandb_files(folder))


def wandb_files(folder: Path) -> list[Path]:
    """W&B's files in a run's folder, oldest first: one for each time that the run was started."""
    kinds = ("offline-run-*", "run-*")
    found = [path for kind in kinds for path in (folder / "wandb").glob(f"{kind}/run-*.wandb")]
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))


def read_logged(folder: Path) -> LoggedRun:
    """Read what a run has logged.

    W&B's file is taken where it is; where it ends before the CSV file does, as that of a killed
    run, numbers are the CSV file's.

    Raises:
        DataError: the folder holds neither, or nothing in them can be used.
    """
    if not is_logged(folder):
        raise DataError(
            f"run={folder} has neither wandb/*/run-*.wandb nor {CSV}, so nothing was logged there; "
            "name the folder of a run, such as logs/train/runs/<date>"
        )
    run = LoggedRun(folder, folder.absolute().name)
    _read_wandb(run)
    _read_csv(run)
    if not run.metrics.values:
        raise DataError(
            f"run={folder} holds no numbers; {'; '.join(run.notes) or 'none are there'}"
        )
    return run


def name_apart(runs: Sequence[LoggedRun]) -> None:
    """Runs of one label get the names of their folders too, or their paths."""
    for name_of in (lambda run: run.folder.absolute().name, lambda run: str(run.folder)):
        number = Counter(run.label for run in runs)
        for run in runs:
            if number[run.label] > 1:
                run.label = f"{run.label} ({name_of(run)})"


def _read_wandb(run: LoggedRun) -> None:
    files = []
    for path in wandb_files(run.folder):
        try:
            files.append(read_wandb_file(path))
        except (DataError, OSError) as error:
            run.notes.append(f"left out: {error}")
    for one in _of_one_run(run.folder, files):
        run.label = one.name or run.label
        _forget_from(run.metrics, _first_step(one.metrics))
        _join(run.metrics, one.metrics)
        run.system = one.system
        run.pictures = sorted({*run.pictures, *one.pictures})
        if one.damaged:
            run.notes.append(f"W&B's file: {one.damaged} damaged parts are left out")
    if run.metrics.values:
        run.source = "W&B's file"
        if not files[-1].has_ended:
            run.notes.append("W&B's file has no end: the run goes on, or was killed")


def _read_csv(run: LoggedRun) -> None:
    """Numbers of the CSV file, where W&B's has none or fewer steps."""
    path = run.folder / CSV
    if not path.is_file():
        return
    try:
        columns = read_columns(path)
    except (OSError, ValueError) as error:
        run.notes.append(f"{CSV} is left out: {error}")
        return
    reached, kept = run.metrics.last_step, columns.last_step
    if kept is None or (reached is not None and kept <= reached):
        return
    if reached is None:
        run.source = f"{CSV}, as there is no W&B file with numbers"
        run.pictures = run.pictures or _pictures(run.folder, columns)
    else:
        run.source = str(CSV)
        run.notes.append(
            f"W&B's file ends at step {reached:,}, {CSV} at {kept:,}; numbers are of the latter"
        )
    if columns.damaged:
        run.notes.append(f"{CSV}: {columns.damaged} damaged lines are left out")
    run.metrics = columns


def _of_one_run(folder: Path, files: Sequence[WandbFile]) -> list[WandbFile]:
    """Those of the run that the folder says it is, or else of the newest."""
    path = folder / ID_FILE
    own = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    ids = [one.run_id for one in files]
    wanted = own if own in ids else ids[-1] if ids else ""
    return [one for one in files if one.run_id == wanted]


def _first_step(columns: Columns) -> float:
    return min((min(steps) for steps in columns.steps.values()), default=float("inf"))


def _forget_from(columns: Columns, step: float) -> None:
    """Forget what a run logs again that was started again."""
    for name, steps in list(columns.steps.items()):
        kept = [k for k, at in enumerate(steps) if at < step]
        if len(kept) == len(steps):
            continue
        values = columns.values[name]
        del columns.steps[name], columns.values[name]
        for k in kept:
            columns.add(name, steps[k], values[k])


def _join(columns: Columns, more: Columns) -> None:
    for name, steps in more.steps.items():
        for step, value in zip(steps, more.values[name], strict=True):
            columns.add(name, step, value)


def _pictures(folder: Path, columns: Columns) -> list[str]:
    """Names that the pictures in a run's folder have in W&B."""
    scored = [match for name in columns.values if (match := SCORE.fullmatch(name))]
    domains = {match[2] for match in scored if match[1] == "val"} - {"mean"}
    found = []
    for name in sorted({path.parent.name for path in folder.glob("*/step_*.png")}):
        found += sorted(f"{name}/{d}" for d in domains) if name == "panels" else [name]
    return found
