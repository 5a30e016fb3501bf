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

from sfseg.errors import ConfigError

RECORD = "run.json"
PACKAGES = (
    "sfseg", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf",
    "timm", "albumentations", "opencv-python-headless", "numpy", "wandb",
)  # fmt: skip


def claim(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str], resolved: Mapping[str, Any]
) -> None:
    """Take the folder for this run and write its record there.

    ``run.json`` (command, versions, git state) is created exclusively, so two runs can never
    share a folder; ``.hydra/`` holds the configuration as composed, as resolved, and the
    overrides.

    Raises:
        ConfigError: the folder holds another run, or cannot be written.
    """
    record = {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": versions(),
        "git": git_state(Path.cwd()),
        "tags": config.get("tags") or [],
        "seed": config.get("seed"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create(folder / RECORD, json.dumps(record, indent=2))
        hydra = folder / ".hydra"
        hydra.mkdir(exist_ok=True)
        documents = {"config": config, "resolved": resolved, "overrides": list(overrides)}
        for name, document in documents.items():
            text = yaml.safe_dump(document, sort_keys=False)
            (hydra / f"{name}.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error}") from error


def _create(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"the run folder {path.parent} holds another run, which stays as it is; choose another "
            "hydra.run.dir, or continue that run with ckpt_path=<its checkpoint> in a new folder"
        ) from error


def is_first_process() -> bool:
    """Whether this process writes the run's files; others are its ranks."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(int(rank) == 0 for rank in ranks)


def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
