"""``resume=auto``: go on with the run that the same command has begun."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sfseg.errors import ConfigError
from sfseg.runs.folder import HYDRA, RECORD, require_same
from sfseg.storage.atomic import remove_partial

log = logging.getLogger(__name__)

RESUME, CHECKPOINTS = "resume=auto", "checkpoints"


def in_its_folder(arguments: list[str]) -> list[str]:
    """A command line with ``resume=auto``, pointed at the folder of the run it has begun."""
    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    has_folder = any(argument.startswith("hydra.run.dir=") for argument in arguments)
    if RESUME not in arguments or is_sweep or has_folder:
        return arguments
    overrides = [
        argument
        for argument in arguments
        if not argument.startswith(("-", "hydra")) and ("=" in argument or argument[0] == "~")
    ]
    root = Path(os.environ.get("SFSEG_LOG_DIR", "logs"))
    folder = interrupted_run(root, overrides)
    if folder is None:
        return arguments
    # Beside its like: an override apart from the others would not be read.
    place = arguments.index(RESUME) + 1
    return [*arguments[:place], f"hydra.run.dir={folder}", *arguments[place:]]


def interrupted_run(root: Path, overrides: Sequence[str]) -> Path | None:
    """The newest run that the same command has begun in a folder of its own.

    Args:
        root: folder of all runs, ``<root>/<task>/runs/<time>``.
        overrides: of the command line, in any order.
    """
    wanted = sorted(o for o in overrides if not o.startswith("resume="))
    for record in sorted(root.glob(f"*/runs/*/{RECORD}"), key=lambda p: p.parent.name)[::-1]:
        path = record.parent / HYDRA / "overrides.yaml"
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue
        if isinstance(found, list) and wanted == sorted(
            str(o) for o in found if not str(o).startswith("resume=")
        ):
            return record.parent
    return None


def check_resume(cfg: DictConfig) -> None:
    """Refuse what cannot be gone on with.

    Raises:
        ConfigError: ``resume`` is something else, or the folders of a sweep's jobs are not known.
    """
    if cfg.resume not in {None, "auto"}:
        raise ConfigError(f"resume must be auto or null, got {cfg.resume!r}")
    hydra = HydraConfig.get()
    named = any(str(o).startswith("hydra.sweep.dir=") for o in hydra.overrides.hydra)
    if cfg.resume == "auto" and hydra.mode == RunMode.MULTIRUN and not named:
        raise ConfigError(
            "resume=auto with -m needs hydra.sweep.dir=<folder>, the same each time: jobs of a "
            "sweep have no folder of their own to be found by"
        )


def where_it_stopped(cfg: DictConfig, folder: Path, config: Mapping[str, Any]) -> str | None:
    """The checkpoint that a run goes on from: its newest, or what the command says at first.

    Raises:
        ConfigError: it has some, and all are damaged, or its settings were others.
    """
    from sfseg.storage.manifest import newest

    found = newest(folder / CHECKPOINTS)
    if found is not None:
        require_same(folder, config)
    start = cfg.ckpt_path if found is None else str(found)
    log.info("going on with %s from %s", folder, start or "its beginning")
    return start


def tidy(folder: Path) -> None:
    """Remove what a killed process has left in its folder and no checkpoint knows."""
    from sfseg.runs.preparation import FOLDER
    from sfseg.storage.manifest import newest

    remove_partial(folder)
    if newest(folder / CHECKPOINTS) is None:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def last_logged(cfg: DictConfig) -> int:
    """The step up to which the run has logged what its checkpoint knows; -1 without one."""
    from sfseg.runs.checkpoints import read_checkpoint

    if cfg.ckpt_path is None:
        return -1
    # Lightning logs the n-th step as n - 1, and the source model's scores before it as 0.
    return max(int(read_checkpoint(cfg.ckpt_path)["global_step"]) - 1, 0)
