"""Checkpoints: read them safely, compare them with a model, rebuild their network."""

import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from sfseg.config.composition import CONF, build, detached
from sfseg.config.moved import with_todays_names
from sfseg.config.trust import require_allowed
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.nesting import require_small
from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD
from sfseg.networks.weights.checkpoint import load_segmenter, load_strictly, require_same_keys
from sfseg.networks.weights.published import identify
from sfseg.networks.weights.weight_files import (
    local_file,
    require_intact,
    require_stored,
    require_usable,
)
from sfseg.storage.manifest import KEY, verify

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

log = logging.getLogger(__name__)
PREFIX = "network."
START = {"pretrained": False, "weights": None, "checkpoint": None}
"""Settings that name weights to start from, and their values for a network that needs none."""


@dataclass(frozen=True)
class Restored:
    """A trained network with what is needed to use it.

    network: in eval mode, on the CPU.
    labels: the label space it was trained for.
    config: the run's configuration, interpolations unresolved.
    selection: in words, how these weights were chosen where they are not the run's last.
    """

    network: nn.Module
    labels: LabelSpace
    config: DictConfig
    selection: str = ""

    @property
    def value_range(self) -> Any:
        """Which stored values became 0 to 255 in the run's evaluation, as its setting says."""
        chosen = OmegaConf.select(self.config, "data.scenes.target_eval.value_range")
        return OmegaConf.to_object(chosen) if OmegaConf.is_list(chosen) else chosen


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint written by a run; holds tensors and plain containers only.

    Raises:
        ConfigError: missing, an address, damaged, or not written by a run of sfseg.
    """
    path = local_file(path, "ckpt_path")
    verify(path)
    try:
        require_intact(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged archive fails in any of its readers, each with an exception of its own.
    except Exception as error:
        # The library's own text advises to execute what the file holds: not repeated here.
        raise ConfigError(
            f"ckpt_path={path} cannot be read ({type(error).__name__}): it is damaged, or no "
            "checkpoint; nothing in it was executed. Take an earlier one"
        ) from error
    if not (isinstance(content, dict) and KEY in content and _are_tensors(content)):
        raise ConfigError(
            f"ckpt_path={path} was not written by sfseg-train; give a run's "
            "checkpoints/last.ckpt, or a backbone's weights with backbone.weights"
        )
    return content


def stored_labels(path: str | Path) -> LabelSpace | None:
    """The label space of a run's checkpoint; None for files of other programs."""
    if Path(path).suffix == ".safetensors":
        return None
    try:
        require_stored(Path(path))
        # Mapped: of all the weights nothing is read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        # Of another program, or damaged: whoever reads the weights will say it.
        return None
    is_run = isinstance(content, dict) and KEY in content
    return labels_of(content[KEY], Path(path)) if is_run else None


def check_resumable(path: str | Path, method: "LightningModule") -> int:
    """Refuse a checkpoint of another model; returns the optimiser steps it has done.

    Raises:
        ConfigError: says which keys differ and, if so, how many classes each side has; or it
            holds weights alone.
    """
    content = read_checkpoint(path)
    if "optimizer_states" not in content:
        raise ConfigError(
            f"ckpt_path={path} holds weights alone, for sfseg-eval and sfseg-predict; a run goes "
            "on from its last.ckpt"
        )
    tensors: dict[str, Tensor] = content["state_dict"]
    require_same_keys(method.state_dict(), tensors, source=str(path))
    require_usable(tensors, source=str(path))
    return int(content["global_step"])


def restore(path: str | Path) -> Restored:
    """The network of a run's checkpoint, or of a file that another project has published.

    Raises:
        ConfigError: unreadable, its weights do not fit its own configuration, or a published
            network that this library has not.
    """
    path = Path(path)
    if _is_published(path):
        config = _published_config(path)
        labels: LabelSpace = build(config.data.module.labels)
        network = _network(config, labels)
        load_segmenter(network, path)
        return Restored(network.eval(), labels, config)
    content = read_checkpoint(path)
    labels, config = labels_of(content[KEY], path), config_of(content[KEY], path)
    network = _network(config, labels)
    tensors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(PREFIX)
    }
    load_strictly(network, tensors, source=str(path))
    return Restored(network.eval(), labels, config, str(content.get("selection", "")))


def _are_tensors(content: dict[str, Any]) -> bool:
    tensors = content.get("state_dict")
    return isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    )


@contextmanager
def record_of(path: Path, setting: str = "ckpt_path") -> Iterator[None]:
    """Errors of reading what a run has written of itself into a file.

    Args:
        path: of the file.
        setting: that has named it.

    Raises:
        ConfigError: it is no such record.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{setting}={path} has no usable record of its run ({type(error).__name__}: {error}); "
            "take a file that sfseg-train has written"
        ) from error


def labels_of(record: Any, path: Path, setting: str = "ckpt_path") -> LabelSpace:
    """The label space in the record of a run; arguments and errors as of :func:`record_of`."""
    with record_of(path, setting):
        require_small(record, "the record")
        return LabelSpace.from_dict(record["labels"])


def config_of(record: Any, path: Path, setting: str = "ckpt_path") -> DictConfig:
    """The configuration in the record of a run, interpolations unresolved.

    Raises:
        ConfigError: there is none, or it names what must not be called.
    """
    with record_of(path, setting):
        require_small(record, "the record")
        config = OmegaConf.create(_updated(with_todays_names(record["config"])))
        for key in ("backbone.network", "method", "data.module"):
            if not OmegaConf.is_dict(OmegaConf.select(config, key)):
                raise ValueError(f"{key} is no group of settings")
        assert isinstance(config, DictConfig)
        OmegaConf.set_struct(config, True)
    require_allowed(config, source=f"{setting}={path}")
    return config


def _is_published(path: Path) -> bool:
    """Whether a readable file is of another program; what cannot be read is not."""
    if path.suffix == ".safetensors":
        return path.is_file()
    try:
        require_stored(path)
        # Mapped, where the format allows it: of all the weights nothing is read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except pickle.UnpicklingError as error:
        # Objects beside the tensors, which runs never write: other programs do, in files that are
        # called otherwise. A checkpoint of ours that has some is not to be opened in any way.
        return "GLOBAL" in str(error) and path.suffix != ".ckpt"
    except Exception:
        # As in read_checkpoint, which will say it.
        return False
    return not (isinstance(content, dict) and KEY in content)


def _published_config(path: Path) -> DictConfig:
    """The configuration of a run whose network a published file would fit.

    Its ``method.needs`` is the target alone: there is no source to evaluate on.

    Raises:
        ConfigError: see :func:`sfseg.networks.weights.published.identify`.
    """
    overrides = identify(path).overrides()
    log.info("%s: recognised as %s", path, " ".join(overrides))
    if GlobalHydra.instance().is_initialized():
        # Inside a command: its search path may have groups of the user's own.
        config = compose("train", overrides=overrides)
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", overrides=overrides)
    config.method.needs = ["target"]
    return config


def _network(config: DictConfig, labels: LabelSpace) -> nn.Module:
    node = with_labels(empty_backbone(config), labels)
    network: nn.Module = build(node, num_classes=labels.num_classes)
    for adapter in ("source_adapter", "adapter"):
        if config.method.get(adapter) is not None:
            network = build(without_starts(detached(config.method[adapter])))(network)
    return network


def with_labels(node: Any, labels: LabelSpace) -> Any:
    """A node, at any depth of which classes have the names that the weights were trained with.

    What would read them, from a file perhaps, is not called.
    """
    if OmegaConf.is_config(node):
        return OmegaConf.create(with_labels(OmegaConf.to_container(node), labels))
    if isinstance(node, dict):
        return {
            key: list(labels.classes) if key == "labels" else with_labels(part, labels)
            for key, part in node.items()
        }
    return [with_labels(part, labels) for part in node] if isinstance(node, list) else node


def empty_backbone(config: DictConfig) -> DictConfig:
    """What builds the network of a run whose weights follow from a file of their own.

    Those it once started from need neither a download nor a file.
    """
    config = config.copy()
    config.backbone.network = without_starts(detached(config.backbone.network))
    network: DictConfig = config.backbone.network
    return network


def without_starts(node: Any) -> Any:
    """A node, at any depth of which nothing names weights that a network would start from.

    A checkpoint may be a stranger's: what it names must open no file here and begin no download.
    """
    if OmegaConf.is_config(node):
        return OmegaConf.create(without_starts(OmegaConf.to_container(node)))
    if isinstance(node, dict):
        return {
            # Of a list of numbers, such as those of a loss, no file is opened.
            key: START[key] if key in START and not isinstance(part, list) else without_starts(part)
            for key, part in node.items()
        }
    return [without_starts(part) for part in node] if isinstance(node, list) else node


def _updated(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an older run under today's names."""
    module = config["data"]["module"]
    if "eval_size" in module:
        module["eval_view"] = {
            "_target_": "sfseg.data.geometry.EvalView",
            "size": module.pop("eval_size"),
        }
    if "check_samples" in module:
        config["data"] |= {"on_error": "raise", "max_skipped": 10}
        module["checks"] = {
            "_target_": "sfseg.data.check.Checks",
            "samples": module.pop("check_samples"),
            "on_error": "${data.on_error}",
            "max_skipped": "${data.max_skipped}",
        }
    network = config["backbone"]["network"]
    if network.get("_target_") == "sfseg.networks.build.build_segmenter" and "mean" not in network:
        # What every backbone was shown before each had a mean of its own.
        network |= {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    plan = {"steps": None, "batch_size": 1, "target_view": config["data"].get("target_view")}
    config["method"].setdefault("plan", plan)
    return config
