"""What a source model is made from: one value, which its name and its training follow from."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import build, plain
from sfseg.data.fingerprint import fingerprint
from sfseg.data.opening import opened as open_set
from sfseg.errors import ConfigError
from sfseg.networks.batch_norm import tracking_norms
from sfseg.runs.checkpoints import empty_backbone
from sfseg.runs.crops import fit_crops
from sfseg.storage.manifest import digest

VERSION = 2
"""Raised whenever the same settings would train other weights than before."""
KEPT = ("data", "backbone", "evaluation", "checkpoint", "seed", "matmul_precision", "output_dir")
"""Parts of a run's configuration that its source model's own run takes over."""
TRAINER = {
    "_target_": "lightning.pytorch.Trainer",
    "log_every_n_steps": 20,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Its trainer, but for what :data:`MACHINE` says and the number of steps."""
MACHINE = (
    "accelerator", "strategy", "devices", "num_nodes", "sync_batchnorm", "precision",
    "deterministic", "benchmark",
)  # fmt: skip
"""Settings of the run's trainer that are also its source model's."""
SPEED = {"compile", "channels_last"}
"""Settings of a network that change the order of sums and nothing else."""
DATA = ("_target_", "views.source", "colour", "batch_size", "checks.on_error")
"""Settings of the DataModule that training on the source depends on, beside scenes and classes."""
ADDED = {"sampler": {"_target_": "sfseg.data.sampling.Uniform"}}
"""Later ones, and the value that does what was done before: then the name stays what it was."""
OBSERVING = {"needs", "plan", "log_every", "seed"}
"""Arguments of a method that change no weight, or that the recipe names by itself."""


@dataclass(frozen=True)
class Recipe:
    """How a source model is trained.

    Two runs share a model if, and only if, ``settings`` and ``content`` agree. What changes the
    order of sums alone (device, threads, compiled code) is no part of them, nor is how the images
    of a step are dealt to processes, but where batch normalisation sees those of one alone.

    Args:
        method: name of the method that trains it.
        steps: of its optimiser.
        settings: all that its weights depend on but the pictures, as plain values; files of
            weights by their content.
        content: of the pictures and labels: digest of their files, see
            :func:`sfseg.data.fingerprint.fingerprint`, or of the settings that draw them. None
            where the source was not looked at.
        opened: the settings that open the pictures, with an absolute folder.
        config: of the run that trains it, as its checkpoint keeps it: interpolations unresolved.
    """

    method: str
    steps: int
    settings: Mapping[str, Any]
    content: str | None
    opened: Mapping[str, Any]
    config: DictConfig

    @property
    def name(self) -> str:
        """Words for people, and a digest of all that the weights depend on."""
        network, seed = self.settings["network"].get("name", "network"), self.settings["seed"]
        return f"{self.method}-{network}-s{seed}-{_digest([self.settings, self.content])}"

    def record(self) -> dict[str, Any]:
        """What is kept beside the model: digests to compare, and settings for people to read."""
        parts = {key: plain(self.config[key], resolve=True) for key in ("method", "trainer")}
        parts["network"] = plain(self.config.backbone.network, resolve=True)
        parts["data"] = plain(self.config.data.module, resolve=True)
        return {
            "settings": _digest(self.settings),
            "opened": _digest(self.opened),
            "content": self.content,
            **parts,
        }

    def differs_in_content_alone(self, record: Any) -> bool:
        """Whether a record is of these settings and folders, whatever the folders held."""
        return isinstance(record, dict) and all(
            record.get(key) == _digest(getattr(self, key)) for key in ("settings", "opened")
        )


def recipe_of(cfg: DictConfig, *, steps: int | None = None, is_there: bool = True) -> Recipe:
    """The recipe of a run's source model.

    Args:
        cfg: of the run that starts from the model.
        steps: in place of ``source_model.steps``.
        is_there: whether the source's files can be looked at.

    Raises:
        ConfigError: a setting of the source's data cannot work.
        DataError: the source's files are not there.
    """
    config = _own_run(cfg, int(cfg.source_model.steps if steps is None else steps))
    method, module, network = (
        _values(OmegaConf.select(config, key))
        for key in ("method", "data.module", "backbone.network")
    )
    own, processes = int(module["batch_size"]), _processes(config)
    apart = {} if _sees_all(config, processes) else {"normalised": own}
    settings = {
        "version": VERSION,
        "data": {
            **{key: _at(module, key) for key in DATA},
            **_added(module),
            "batch_size": own * processes,
            **apart,
        },
        "classes": list(build(config.data.module.labels).classes),
        "network": {key: value for key, value in network.items() if key not in SPEED},
        "method": {key: value for key, value in method.items() if key not in OBSERVING},
        "steps": config.trainer.max_steps,
        "seed": config.seed,
        "precision": config.trainer.precision,
        "matmul_precision": config.matmul_precision,
    }
    opened = dict(_at(module, "scenes.source_train") or {})
    if "root" in opened:
        opened["root"] = str(Path(opened["root"]).expanduser().absolute())
    content = _content(config, opened) if is_there else None
    if is_there:
        # No part of `settings`: it follows from them and the content.
        fit_crops(config, ["source"])
    return Recipe(
        method=str(method["_target_"]).split(".")[-2],
        steps=config.trainer.max_steps,
        settings=_by_content(settings),
        content=content,
        opened=opened,
        config=config,
    )


def _own_run(cfg: DictConfig, steps: int) -> DictConfig:
    """The configuration of the run that trains the source model."""
    given = _values(cfg, resolve=False)
    own = {key: given[key] for key in KEPT}
    own["method"] = given["source_model"]["method"]
    # What the command line says of the adaptation's crops is not the source model's.
    own["method"]["plan"]["target_view"] = None
    if "source" in cfg.method.needs:
        # How the method itself chooses and shows the source is no part of the model it starts from.
        own["data"] |= {"sampler": ADDED["sampler"], "translation": None, "translated": None}
    machine = {key: cfg.trainer[key] for key in MACHINE if key in cfg.trainer}
    own["trainer"] = {**TRAINER, **_values(OmegaConf.create(machine)), "max_steps": steps}
    # A user's own keys, which those may refer to.
    while missing := _referred(own) & set(given) - set(own):
        own |= {key: given[key] for key in missing}
    config = OmegaConf.create(own)
    OmegaConf.set_struct(config, True)
    return config


def _processes(config: DictConfig) -> int:
    """How many processes a run has, or its trainer will start.

    Raises:
        ConfigError: Lightning refuses a setting.
    """
    trainer: Trainer = build(config.trainer, logger=False, enable_checkpointing=False)
    return trainer.world_size


def _sees_all(config: DictConfig, processes: int) -> bool:
    """Whether all layers of the network see all images of a step, whoever has them."""
    if processes == 1 or config.trainer.get("sync_batchnorm"):
        return True
    classes = len(build(config.data.module.labels).classes)
    with torch.random.fork_rng(devices=[]):
        network = build(empty_backbone(config), num_classes=classes)
    return not any(norm.training for norm in tracking_norms(network.train()))


def _values(node: Any, *, resolve: bool = True) -> dict[str, Any]:
    values = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _referred(settings: Any) -> set[str]:
    """Top-level keys that interpolations name."""
    return set(re.findall(r"\$\{(\w+)[.}\[]", json.dumps(settings, default=str)))


def _content(config: DictConfig, opened: Mapping[str, Any]) -> str:
    if not opened:
        raise ConfigError("the source model needs data.scenes.source_train, got null; set it")
    scenes = open_set("source_train", build(config.data.module.scenes.source_train))
    return fingerprint(scenes) or _digest(opened)


def _at(settings: Mapping[str, Any], path: str) -> Any:
    """A value below nested settings; None where there is none."""
    found: Any = settings
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _added(module: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of :data:`ADDED` that are not as before."""
    return {k: module[k] for k, before in ADDED.items() if module.get(k, before) != before}


def _by_content(value: Any) -> Any:
    """Settings in which paths of files are digests of what these hold."""
    if isinstance(value, Mapping):
        return {key: _by_content(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_by_content(part) for part in value]
    # A word such as "tiny" may happen to be a file's name too.
    if isinstance(value, str) and {"/", "."} & set(value) and (path := Path(value)).is_file():
        return f"sha256 {digest(path)}"
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
