"""The model that source-free methods start from: given, trained before, or trained now."""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sfseg.config.composition import build, plain
from sfseg.errors import ConfigError, DataError
from sfseg.networks.weights.weight_files import local_file
from sfseg.runs.recipe import Recipe, recipe_of
from sfseg.sharing.hub import find as find_shared
from sfseg.sharing.shared_model import WEIGHTS
from sfseg.storage.atomic import remove_partial, write_whole
from sfseg.storage.lock import WriterLock

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import Strategy

    from sfseg.methods.base import Method

log = logging.getLogger(__name__)

MODEL, RECORD = "last.ckpt", "recipe.json"
WAIT = 1.0
"""Seconds between two looks at a folder in which another run trains."""


def find(cfg: DictConfig) -> Path | None:
    """The checkpoint of the source model of a run; None where it must be trained first.

    A run that is continued goes on with the model that it began with, wherever that is kept.

    Raises:
        ConfigError: ``source_checkpoint`` is no file, or a file is damaged.
        DataError: the source's data are not there, nor a model that was trained on them.
    """
    from sfseg.runs.preparation import began_with
    from sfseg.storage.manifest import verify

    if cfg.source_checkpoint is not None:
        given = Path(cfg.source_checkpoint).expanduser()
        shared_model = find_shared(given, "source_checkpoint")
        if shared_model is not None:
            log.info("source model: %s, shared, as given", cfg.source_checkpoint)
            return shared_model / WEIGHTS
        path = local_file(given, "source_checkpoint")
        verify(path)
        log.info("source model: %s, as given", path)
        return path
    if cfg.ckpt_path is not None and (before := began_with(cfg)):
        log.info("source model: %s, which the run began with", before)
        return before
    try:
        path = place(cfg, recipe_of(cfg))
    except DataError as error:
        return _trained_before(cfg, error)
    if not path.is_file():
        return None
    log.info("source model: %s, trained before", path)
    verify(path)
    return path


def _trained_before(cfg: DictConfig, error: DataError) -> Path:
    """The newest model of the same settings and folders, for when the source is gone.

    Raises:
        DataError: there is none.
    """
    recipe = recipe_of(cfg, is_there=False)
    fitting = [
        path.with_name(MODEL)
        for path in folder(cfg).glob(f"{recipe.method}-*/{RECORD}")
        if path.with_name(MODEL).is_file() and recipe.differs_in_content_alone(_record(path))
    ]
    if not fitting:
        raise DataError(
            f"{error}; a run needs the source's data to train its source model, or a model that "
            "has been trained: source_checkpoint=<file>"
        ) from error
    path = max(fitting, key=lambda model: model.stat().st_mtime)
    log.warning("source model: %s, trained on what was there before: %s", path, error)
    return path


def _record(path: Path) -> Any:
    """What is kept beside a model; None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        log.warning("source model: %s is damaged and passed over: %s", path, error)
        return None


def shared(cfg: DictConfig, found: Path | None, strategy: "Strategy") -> tuple[Path, bool]:
    """The source model of all processes of a run, and whether it is another than this one's.

    All processes call it. What the first one has found counts for all; if that is none, all train.

    Args:
        cfg: of the run.
        found: see :func:`find`.
        strategy: of a trainer whose processes have met.
    """
    first = strategy.broadcast(found)
    if first is not None:
        return first, first != found
    return train(cfg, strategy), True


def train(cfg: DictConfig, strategy: "Strategy") -> Path:
    """Supervised training on the source by all processes of a run; the file appears at the end.

    Runs of one :class:`sfseg.runs.recipe.Recipe` share it, and wait for the one that trains it.
    One that was interrupted goes on where it was. A trial run (``trainer.fast_dev_run``) trains as
    many steps as it has itself, into its own folder, where no other run finds it.
    """
    trial = int(cfg.trainer.get("fast_dev_run") or 0)
    recipe = recipe_of(cfg, steps=trial or None)
    path = place(cfg, recipe)
    if trial:
        path = Path(cfg.output_dir) / "source_model" / MODEL
        log.warning("source model: of %d steps, for this trial alone", trial)
    path = strategy.broadcast(path)
    with waiting_lock(path.parent, strategy):
        say = log.info if strategy.is_global_zero else log.debug
        if strategy.broadcast(path.is_file()):
            say("source model: %s, trained by another process meanwhile", path)
            return path
        say(
            "source model: none yet for these settings; training %s first, %d steps",
            path, recipe.steps,
        )  # fmt: skip
        _train(recipe, path, strategy)
    return path


def _train(recipe: Recipe, path: Path, strategy: "Strategy") -> None:
    """:func:`train` in a folder that no other run uses.

    Raises:
        ConfigError: training has ended before its last step.
    """
    from lightning.pytorch import seed_everything

    from sfseg.callbacks.checkpoint import Checkpoint
    from sfseg.callbacks.finite import FiniteGuard
    from sfseg.callbacks.progress import ProgressReport
    from sfseg.callbacks.provenance import Provenance
    from sfseg.runs.checkpoints import check_resumable
    from sfseg.storage.checkpoint_files import CheckpointFiles
    from sfseg.storage.manifest import newest

    config = recipe.config
    record = plain(config, resolve=False)
    seed_everything(config.seed, verbose=False)
    data = build(config.data.module)
    network = build(config.backbone.network, num_classes=data.labels.num_classes)
    method: Method = build(config.method)(
        network=network,
        labels=data.labels,
        eval_domains=data.eval_domains,
        inference=build(config.evaluation),
    )
    unfinished = path.parent / "unfinished"
    trainer: Trainer = build(
        config.trainer,
        logger=False,
        callbacks=[
            FiniteGuard(folder=str(path.parent / "nonfinite")),
            Provenance(record, data.labels.to_dict()),
            ProgressReport(),
            Checkpoint(str(unfinished), **config.checkpoint),
        ],
        plugins=[CheckpointFiles()],
        default_root_dir=str(path.parent),
    )
    if strategy.is_global_zero:
        remove_partial(path.parent)
        text = json.dumps(recipe.record(), indent=2)
        write_whole(path.with_name(RECORD), lambda file: file.write(text.encode()))
    start = strategy.broadcast(newest(unfinished))
    if start is not None:
        done = check_resumable(start, method)
        log.info("source model: going on from step %d", done)
    trainer.fit(method, datamodule=data, ckpt_path=start, weights_only=True)
    if trainer.global_step != recipe.steps:
        raise ConfigError(
            f"the source model has ended at step {trainer.global_step} of {recipe.steps} and is "
            f"not kept; the same command goes on from {unfinished}, or set source_model.steps"
        )
    # Complete or not there: a process may be killed while it writes.
    trainer.save_checkpoint(path)
    if strategy.is_global_zero:
        shutil.rmtree(unfinished, ignore_errors=True)
        log.info("source model: %s, trained now", path)


@contextmanager
def waiting_lock(folder: Path, strategy: "Strategy") -> Iterator[None]:
    """Hold a folder's lock; while another run does, wait and say so.

    The first process holds it for all, which hear of it at each try: none waits for long.
    """
    lock, said, is_held = None, "", False
    while not is_held:
        if strategy.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = WriterLock(folder / ".lock")
            except ConfigError as error:
                if str(error) != said:
                    log.info("source model: %s; waiting", said := str(error))
        is_held = strategy.broadcast(lock is not None)
        if not is_held:
            time.sleep(WAIT)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def folder(cfg: DictConfig) -> Path:
    """Where source models are kept."""
    return Path(cfg.source_model.folder).expanduser()


def place(cfg: DictConfig, recipe: Recipe) -> Path:
    """Where the source model of a recipe is kept."""
    return folder(cfg) / recipe.name / MODEL
