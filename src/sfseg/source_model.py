"""The model that source-free methods start from: given, trained before, or trained now."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sfseg.config import build, plain
from sfseg.errors import ConfigError
from sfseg.networks.weight_files import local_file

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from sfseg.methods.base import Method

log = logging.getLogger(__name__)

WITHOUT_EFFECT = {"compile", "channels_last", "gradient_checkpointing", "recompute_prompts"}
"""Settings of the backbone that change its speed, not its weights."""
UNUSED = {"needs", "log_every"}


def find(cfg: DictConfig) -> Path | None:
    """The checkpoint of the source model of a run; None where it must be trained first.

    Raises:
        ConfigError: ``source_checkpoint`` is no file.
    """
    if cfg.source_checkpoint is not None:
        path = local_file(Path(cfg.source_checkpoint).expanduser(), "source_checkpoint")
        log.info("source model: %s, as given", path)
        return path
    path = place(cfg)
    if path.is_file():
        log.info("source model: %s, trained before", path)
        return path
    return None


def train(cfg: DictConfig) -> Path:
    """Supervised training on the source; the file appears when all is done.

    Runs that agree in source data, backbone, head, recipe, steps, seed and precision share it.

    Raises:
        ConfigError: the run has several processes, of which one would have to train for all.
    """
    from lightning.pytorch import seed_everything

    from sfseg.callbacks.progress import ProgressReport
    from sfseg.callbacks.provenance import Provenance

    path, recipe = place(cfg), recipe_of(cfg)
    log.info("source model: none yet for these settings; training %s first", path)
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
    trainer: Trainer = build(
        recipe.trainer,
        logger=False,
        callbacks=[content, ProgressReport()],
        default_root_dir=str(path.parent),
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    if trainer.world_size > 1:
        raise ConfigError(
            f"source_checkpoint must be given to a run of {trainer.world_size} processes, got null "
            f"and no {path}; train it with sfseg-train method={recipe_name(cfg)} and "
            "the same data and backbone, then give its checkpoints/last.ckpt"
        )
    trainer.fit(method, datamodule=data)
    # Complete or not there: a process may be killed while it writes.
    partial = path.with_name(f".{path.name}.partial")
    trainer.save_checkpoint(partial)
    partial.replace(path)
    log.info("source model: %s, trained now", path)
    return path


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
        "seed": recipe.seed,
        "precision": recipe.trainer.precision,
    }


def recipe_of(cfg: DictConfig) -> DictConfig:
    """The configuration of the source model's own run, as its checkpoint keeps it."""
    recipe = cfg.copy()
    OmegaConf.set_struct(recipe, False)
    recipe.method = cfg.source_model.method
    recipe.trainer.max_steps = cfg.source_model.steps
    # What this command line says of the adaptation is not the source model's.
    recipe.method.plan.target_view = None
    return recipe


def _without(settings: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    """Nested settings without these keys."""
    return {
        key: _without(value, keys) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in keys
    }
