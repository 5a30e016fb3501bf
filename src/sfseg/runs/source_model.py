"""The model that source-free methods start from: given, trained before, or trained now."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import build, plain
from sfseg.errors import ConfigError
from sfseg.networks.weights.weight_files import local_file
from sfseg.storage.atomic import remove_partial
from sfseg.storage.lock import WriterLock

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from sfseg.methods.base import Method

log = logging.getLogger(__name__)

WITHOUT_EFFECT = {"compile", "channels_last", "gradient_checkpointing", "recompute_prompts"}
"""Settings of the backbone that change its speed, not its weights."""
UNUSED = {"needs", "log_every", "plan"}
"""Settings of the method that do not either; of its plan, steps and batch size do."""
WAIT = 1.0
"""Seconds between two looks at a folder in which another process trains."""


def find(cfg: DictConfig) -> Path | None:
    """The checkpoint of the source model of a run; None where it must be trained first.

    Raises:
        ConfigError: ``source_checkpoint`` is no file, or a file is damaged.
    """
    from sfseg.storage.checkpoint_files import verify

    if cfg.source_checkpoint is not None:
        path = local_file(Path(cfg.source_checkpoint).expanduser(), "source_checkpoint")
        verify(path)
        log.info("source model: %s, as given", path)
        return path
    path = place(cfg)
    if path.is_file():
        verify(path)
        log.info("source model: %s, trained before", path)
        return path
    return None


def train(cfg: DictConfig) -> Path:
    """Supervised training on the source; the file appears when all is done.

    Runs that agree in source data, backbone, head, recipe, steps, seed and precision share it, and
    wait for the one that trains it. One that was interrupted goes on where it was.

    Raises:
        ConfigError: the run has several processes, of which one would have to train for all.
    """
    path = place(cfg)
    if several_processes(cfg):
        raise ConfigError(
            f"source_checkpoint must be given to a run of several processes, got null and no "
            f"{path}; train it with sfseg-train method={recipe_name(cfg)} and the same data and "
            "backbone, then give its checkpoints/last.ckpt"
        )
    with waiting_lock(path.parent):
        if path.is_file():
            log.info("source model: %s, trained by another process meanwhile", path)
            return path
        log.info("source model: none yet for these settings; training %s first", path)
        return _train(cfg, recipe_of(cfg), path)


def _train(cfg: DictConfig, recipe: DictConfig, path: Path) -> Path:
    """:func:`train` in a folder that no other process uses."""
    from lightning.pytorch import seed_everything

    from sfseg.callbacks.checkpoint import Checkpoint
    from sfseg.callbacks.finite import FiniteGuard
    from sfseg.callbacks.progress import ProgressReport
    from sfseg.callbacks.provenance import Provenance
    from sfseg.runs.checkpoints import check_resumable
    from sfseg.storage.checkpoint_files import CheckpointFiles, newest

    seed_everything(cfg.seed, verbose=False)
    data = build(recipe.data.module)
    network = build(recipe.backbone.network, num_classes=data.labels.num_classes)
    method: Method = build(recipe.method)(
        network=network,
        labels=data.labels,
        eval_domains=data.eval_domains,
        inference=build(recipe.evaluation),
    )
    content = Provenance(plain(recipe, resolve=False), data.labels.to_dict())
    unfinished = path.parent / "unfinished"
    trainer: Trainer = build(
        recipe.trainer,
        logger=False,
        callbacks=[
            FiniteGuard(),
            content,
            ProgressReport(),
            Checkpoint(str(unfinished), **recipe.checkpoint),
        ],
        plugins=[CheckpointFiles()],
        default_root_dir=str(path.parent),
        limit_val_batches=0,
    )
    remove_partial(path.parent)
    start = newest(unfinished)
    if start is not None:
        log.info("source model: going on from step %d", check_resumable(start, method))
    trainer.fit(method, datamodule=data, ckpt_path=start, weights_only=True)
    # Complete or not there: a process may be killed while it writes.
    trainer.save_checkpoint(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    log.info("source model: %s, trained now", path)
    return path


def several_processes(cfg: DictConfig) -> bool:
    """Whether a run has, or its trainer will start, more than one process."""
    from lightning.pytorch import Trainer

    settings = {key: cfg.trainer.get(key) for key in ("accelerator", "strategy", "devices")}
    settings["num_nodes"] = cfg.trainer.get("num_nodes", 1)
    given = {key: value for key, value in settings.items() if value is not None}
    return Trainer(**given, logger=False, enable_checkpointing=False).world_size > 1


@contextmanager
def waiting_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; while another process does, wait and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, said = None, ""
    while lock is None:
        try:
            lock = WriterLock(folder / ".lock")
        except ConfigError as error:
            if str(error) != said:
                log.info("source model: %s; waiting", said := str(error))
            time.sleep(WAIT)
    try:
        yield
    finally:
        lock.release()


def place(cfg: DictConfig) -> Path:
    """Where the source model of these settings is kept: words and a hash of all it depends on."""
    text = json.dumps(ingredients(cfg), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    words = f"{recipe_name(cfg)}-{cfg.backbone.network.name}-s{cfg.seed}-{digest}"
    return Path(cfg.source_model.folder).expanduser() / words / "last.ckpt"


def recipe_name(cfg: DictConfig) -> str:
    """The method that trains the source model, as in its class's module."""
    return str(cfg.source_model.method._target_).split(".")[-2]


def ingredients(cfg: DictConfig) -> dict[str, Any]:
    """The settings that the source model's weights depend on."""
    recipe = recipe_of(cfg)
    data = plain(recipe.data, resolve=True)
    return {
        "scenes": data["scenes"]["source_train"],
        "data": {key: data[key] for key in ("classes", "source_view", "colour")},
        "backbone": _without(plain(recipe.backbone, resolve=True), WITHOUT_EFFECT),
        "method": _without(plain(recipe.method, resolve=True), UNUSED),
        "steps": recipe.trainer.max_steps,
        "batch_size": recipe.method.plan.batch_size,
        "seed": recipe.seed,
        "precision": recipe.trainer.precision,
    }


def recipe_of(cfg: DictConfig) -> DictConfig:
    """The configuration of the source model's own run, as its checkpoint keeps it."""
    recipe = cfg.copy()
    OmegaConf.set_struct(recipe, False)
    recipe.method = cfg.source_model.method
    recipe.resume = recipe.ckpt_path = None
    recipe.trainer.max_steps = cfg.source_model.steps
    # What this command line says of the adaptation is not the source model's.
    recipe.method.plan.target_view = None
    recipe.trainer.gradient_clip_val, recipe.trainer.accumulate_grad_batches = None, 1
    return recipe


def _without(settings: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    """Nested settings without these keys."""
    return {
        key: _without(value, keys) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in keys
    }
