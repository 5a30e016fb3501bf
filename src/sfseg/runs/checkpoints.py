"""Checkpoints: read them safely, compare them with a model, rebuild their network."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import is_zipfile

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from sfseg.config.composition import CONF, build, detached
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.networks.weights.checkpoint import load_segmenter, load_strictly, require_same_keys
from sfseg.networks.weights.published import identify
from sfseg.networks.weights.weight_files import (
    local_file,
    require_intact,
    require_stored,
    require_usable,
)
from sfseg.runs.records import config_of, labels_of
from sfseg.sharing.address import hub_address
from sfseg.sharing.hub import find
from sfseg.sharing.shared_model import read_record, read_tensors, shared_folder
from sfseg.storage.manifest import KEY, verify

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

log = logging.getLogger(__name__)
PREFIX = "network."
START = {"pretrained": False, "weights": None, "checkpoint": None}
"""Settings that name weights to start from, and their values for a network that needs none."""


class Trained(NamedTuple):
    """A trained network as it is stored.

    record: what its run says of itself: version, configuration, label space.
    tensors: of the network, under its own names.
    selection: in words, how these weights were chosen where they are not the run's last.
    step: optimiser steps of the run, if that is known.
    """

    record: Any
    tensors: dict[str, Tensor]
    selection: str
    step: int | None


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
        ConfigError: missing, an address, damaged, not written by a run of sfseg, or a shared model.
    """
    if hub_address(path, "ckpt_path") is not None or shared_folder(path) is not None:
        raise ConfigError(
            f"ckpt_path={path} is a shared model, of weights alone, and no run goes on from it; "
            f"start from its weights with source_checkpoint={path}"
        )
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
    if (folder := shared_folder(path)) is not None:
        source = f"source_checkpoint={path}"
        return labels_of(read_record(folder, source), source)
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
    return labels_of(content[KEY], f"ckpt_path={path}") if is_run else None


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


def read_trained(path: str | Path) -> Trained:
    """The network of a run's checkpoint, or of a shared model: a folder, or one of the hub.

    Raises:
        ConfigError: unreadable, not written by sfseg, or it cannot be had.
    """
    if (folder := find(path, "ckpt_path")) is not None:
        record = read_record(folder, f"ckpt_path={path}")
        selection = str(record.get("selection") or "")
        return Trained(record, read_tensors(folder), selection, record.get("step"))
    content = read_checkpoint(path)
    tensors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(PREFIX)
    }
    selection = str(content.get("selection", ""))
    return Trained(content[KEY], tensors, selection, content.get("global_step"))


def restore(path: str | Path) -> Restored:
    """A trained network: of a run's checkpoint, shared, or in a file another project has published.

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
    return rebuilt(read_trained(path), f"ckpt_path={path}")


def rebuilt(trained: Trained, source: str) -> Restored:
    """The network that a record describes, with its weights.

    A record may be a stranger's: it opens no file, begins no download and calls what is allowed.

    Args:
        trained: as it is stored.
        source: where, for messages.

    Raises:
        ConfigError: no such record, or the weights do not fit it.
    """
    labels, config = labels_of(trained.record, source), config_of(trained.record, source)
    network = _network(config, labels)
    load_strictly(network, trained.tensors, source=source.partition("=")[2])
    return Restored(network.eval(), labels, config, trained.selection)


def _are_tensors(content: dict[str, Any]) -> bool:
    tensors = content.get("state_dict")
    return isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    )


def _is_published(path: Path) -> bool:
    """Whether a readable file is of another program; what cannot be read is not."""
    if path.suffix == ".safetensors":
        return path.is_file() and shared_folder(path) is None
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

    Raises:
        ConfigError: see :func:`sfseg.networks.weights.published.identify`.
    """
    overrides = identify(path).overrides()
    log.info("%s: recognised as %s", path, " ".join(overrides))
    return composed(overrides)


def composed(overrides: list[str]) -> DictConfig:
    """The configuration of a run for a network that no run of ours has trained.

    Its ``method.needs`` is the target alone: there is no source to evaluate on.

    Args:
        overrides: as on the command line of ``sfseg-train``.
    """
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
