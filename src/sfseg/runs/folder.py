"""Run folders: one a run, never shared, holding what is needed to run again."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from sfseg.config.moved import with_todays_names
from sfseg.errors import ConfigError, OutputError
from sfseg.nesting import leaves
from sfseg.storage.atomic import write_whole
from sfseg.storage.json_object import json_object
from sfseg.storage.lock import WriterLock

RECORD, HYDRA, LOCK = "run.json", ".hydra", ".lock"
FINISHED = "finished"
"""Entry of the record of a run that is complete."""
PACKAGES = (
    "sfseg", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf",
    "timm", "albumentations", "opencv-python-headless", "numpy", "wandb",
    "diffusers", "transformers", "peft",
)  # fmt: skip


def claim(
    folder: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    resolved: Mapping[str, Any],
    *,
    resume: bool = False,
) -> WriterLock:
    """Take the folder for this run and write its record there.

    ``run.json`` (command, versions, git state) is created exclusively, so two runs can never
    share a folder; ``.hydra/`` holds the configuration as composed, as resolved, and the
    overrides.

    Args:
        folder: of the run.
        config: as composed, interpolations unresolved.
        overrides: of the command line.
        resolved: as composed, with values.
        resume: the folder may hold this run, which then goes on; its record gets one more start.

    Returns:
        What keeps other processes out until it is released.

    Raises:
        ConfigError: the folder holds another run, a process works in it, or a file is in its place.
        OutputError: it cannot be written.
    """
    start = {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": versions(),
        "git": git_state(Path.cwd()),
    }
    record = {**start, "tags": config.get("tags") or [], "seed": config.get("seed"), "restarts": []}
    documents = {"config": config, "resolved": resolved, "overrides": list(overrides)}
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = WriterLock(folder / LOCK)
        before = read_record(folder) if resume else None
        if before is not None:
            record = {**before, "restarts": [*before.get("restarts", []), start]}
        elif (folder / RECORD).exists():
            raise ConfigError(
                f"the run folder {folder} holds another run, which stays as it is; choose another "
                "hydra.run.dir, go on with that run with resume=auto and its own command, or "
                "continue a checkpoint of it with ckpt_path=<file> in a new folder"
            )
        for name, document in documents.items():
            _write(folder / HYDRA / f"{name}.yaml", _as_yaml(document))
        # Last: a folder without a record holds nothing that a run could go on with.
        _write(folder / RECORD, json.dumps(record, indent=2))
    except BaseException as error:
        if lock is not None:
            lock.release()
        if isinstance(error, OSError):
            # A file lies where a folder should: another name helps, more room does not.
            in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
            kind = ConfigError if in_the_way else OutputError
            raise kind(f"the run folder {folder} cannot be written: {error}") from error
        raise
    return lock


def read_record(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` says; None where no run has begun.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    return json_object(path, "restore it, or choose another hydra.run.dir")


def finish(folder: Path, metric: float | None) -> None:
    """Write into the record that the run is complete, and what its sweep optimises."""
    record = read_record(folder)
    assert record is not None, "claimed"
    _write(folder / RECORD, json.dumps({**record, FINISHED: {"metric": metric}}, indent=2))


def require_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Compare the configuration of the run in a folder with this one's.

    Raises:
        ConfigError: names the settings that differ.
    """
    if differ := differences(folder, config, free=("report",)):
        raise ConfigError(
            f"resume=auto: the run in {folder} has other settings\n"
            + "\n".join(differ[:5])
            + "\nrepeat its command, choose another hydra.run.dir, or continue its checkpoint with "
            "ckpt_path=<file> in a new folder"
        )


def differences(folder: Path, config: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """Settings of the run in a folder that are others in this one, a line each.

    Args:
        folder: of the run.
        config: as composed, interpolations unresolved.
        free: names of settings, or of groups of them, that may differ.

    Raises:
        ConfigError: the folder's record of them is damaged.
    """
    path = folder / HYDRA / "config.yaml"
    try:
        before = with_todays_names(yaml.safe_load(path.read_text(encoding="utf-8")))
        known = dict(leaves({**before, "resume": None}))
    except (OSError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}), so this run cannot go on") from error
    # As a file says it: tuples become lists, and so on.
    now = dict(leaves(yaml.safe_load(_as_yaml({**config, "resume": None}))))
    differ = (key for key in sorted({*known, *now}) if known.get(key) != now.get(key))
    return [
        f"  {key}: {known.get(key)} there, {now.get(key)} here"
        for key in differ
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    ]


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def _as_yaml(document: Any) -> str:
    """Written by libyaml where PyYAML has it, which takes a tenth of the time."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False))


def is_first_process() -> bool:
    """Whether this process writes the run's files; others are its ranks."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(int(rank) == 0 for rank in ranks)


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Installed versions of the packages that results depend on, and of some more."""
    found = {}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state(folder: Path, *paths: str) -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside a repository.

    Args:
        folder: in the repository.
        paths: the files that count, as git's pathspecs; all if there is none.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", *paths)),
        }
    except (OSError, subprocess.SubprocessError):
        return None
