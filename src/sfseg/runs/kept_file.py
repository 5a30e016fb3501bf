"""Files of kept training steps: read safely, checked, their configuration changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from sfseg import __version__
from sfseg.callbacks.kept_step import FORMAT, KEPT
from sfseg.config.trust import require_allowed
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.networks.weights.weight_files import local_file, require_intact
from sfseg.runs.crops import set_crop
from sfseg.runs.records import config_of, labels_of, record_of
from sfseg.storage.manifest import KEY
from sfseg.types import IGNORE

SETTING = "replay"
GROUPS = ("method", "backbone", "losses", "pseudo_labels")
"""Settings of these may be changed for a replay."""
SINGLE = frozenset({"seed", "matmul_precision"})
TRAINER = frozenset({
    "accelerator", "precision", "max_steps", "gradient_clip_val", "gradient_clip_algorithm",
    "deterministic", "benchmark", "detect_anomaly",
})  # fmt: skip
"""Likewise of ``trainer``."""
NOT_SETTINGS = frozenset({SETTING, "trust"})
PARTS: Mapping[str, type] = {
    "failure": str, "iteration": int, "rank": int, "world_size": int, "device": str,
    "precision": str, "torch": str, "crops": dict, "changed": list, "left_out": int,
    "state_dict": dict, "method": dict, "optimizer_states": list, "schedule_states": list,
    "precision_state": dict, "batches": list, "passes": list,
}  # fmt: skip
"""What a file holds, as :meth:`sfseg.callbacks.kept_step.Beginning.content` makes it."""


@dataclass(frozen=True)
class KeptStep:
    """A training step that has failed.

    path: of its file.
    content: see :data:`PARTS`.
    labels: the label space of the run.
    config: of the run, with the changes that were asked for.
    changes: these, as they were typed.
    version: of sfseg, which has written the file.
    """

    path: Path
    content: Mapping[str, Any]
    labels: LabelSpace
    config: DictConfig
    changes: Sequence[str]
    version: str

    def notes(self, device: str) -> list[str]:
        """Why a replay may differ from what the run did, a sentence each.

        Args:
            device: kind that it runs on.
        """
        kept = self.content
        names, more = [str(name) for name in kept["changed"]], len(kept["changed"]) - 3
        found = {
            f"{', '.join(names[:3])}{f' and {more} more' * (more > 0)} had changed in the step "
            "before it failed, as where another optimiser has stepped; the file holds them as "
            "they were after that": bool(names),
            f"the method gathers gradients by itself; of {kept['left_out'] + 1} batches since its "
            "last step the file holds the last": bool(kept["left_out"]),
            f"this was process {kept['rank']} of {kept['world_size']}, and runs alone now: "
            "gradients, statistics and losses over all processes may differ": kept["world_size"]
            > 1,
            f"the run was on {kept['device']}, this is on {device}, whose bits may differ": (
                kept["device"] != device
            ),
            f"on {device}, equal bits are not promised": kept["device"] == device != "cpu",
            "the network is not compiled here, so that its parts can be watched": bool(
                OmegaConf.select(self.config, "backbone.compile")
            ),
            "trainer.plugins of the run are left out": bool(
                OmegaConf.select(self.config, "trainer.plugins")
            ),
        }
        versions = (
            ("sfseg", self.version, __version__),
            ("torch", kept["torch"], str(torch.__version__)),
        )
        found |= {
            f"{name} was {theirs} and is {mine}: bits may differ": theirs != mine
            for name, theirs, mine in versions
        }
        return [note for note, holds in found.items() if holds]


def read_step(path: str | Path, changes: Sequence[str] = ()) -> KeptStep:
    """Read a kept step; nothing in the file is executed.

    Args:
        path: of the file.
        changes: settings of the command line, as typed.

    Raises:
        ConfigError: no file of a kept step, damaged or of another version; its configuration names
            what must not be called; its batches are none of the run's classes; or a change that
            would have no effect.
    """
    path = local_file(Path(path).expanduser(), SETTING)
    content, source = _read(path), f"{SETTING}={path}"
    with record_of(source):
        for name, kind in PARTS.items():
            if not isinstance(content[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        if not 0 <= content["rank"] < content["world_size"] or content["left_out"] < 0:
            raise ValueError(f"it is of process {content['rank']} of {content['world_size']}")
    labels = labels_of(content[KEY], source)
    config = config_of(content[KEY], source)
    with record_of(source):
        _require_batches(content["batches"], labels)
        for domain, crop in content["crops"].items():
            view = OmegaConf.select(config, f"data.module.views.{domain}")
            if crop is not None and OmegaConf.is_dict(view) and view.get("crop") is None:
                set_crop(config, domain, crop)
        config.trainer.precision = content["precision"]
        is_gpu = content["device"] == "cuda" and torch.cuda.is_available()
        config.trainer.accelerator = "gpu" if is_gpu else "cpu"
    typed = _change(config, changes)
    seed = OmegaConf.select(config, "seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed must be a whole number, at least 0, got {seed}")
    require_allowed(config, source=source)
    return KeptStep(path, content, labels, config, typed, str(content[KEY].get("version")))


def _read(path: Path) -> dict[str, Any]:
    try:
        require_intact(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged archive fails in any of its readers, each with an exception of its own.
    except Exception as error:
        raise ConfigError(
            f"{SETTING}={path} cannot be read ({type(error).__name__}): it is damaged, or no file "
            "of a kept step; nothing in it was executed. Take <run>/nonfinite/step_<iteration>.pt"
        ) from error
    if not (isinstance(content, dict) and KEPT in content and KEY in content):
        is_checkpoint = isinstance(content, dict) and "state_dict" in content
        what = "is a checkpoint" if is_checkpoint else "is no file of a kept step"
        raise ConfigError(
            f"{SETTING}={path} {what}; a run that ends with exit code 4 names the file to give, "
            "<run>/nonfinite/step_<iteration>.pt"
        )
    if content[KEPT] != FORMAT:
        raise ConfigError(
            f"{SETTING}={path} is of version {content[KEPT]} of these files, this is sfseg "
            f"{__version__} with version {FORMAT}; replay it with the sfseg that has written it"
        )
    return content


def _require_batches(batches: Sequence[Any], labels: LabelSpace) -> None:
    if not batches or not all(part["batch"] for part in batches):
        raise ValueError("there is no batch")
    for part in batches:
        _ = part["random"]["torch"], int(part["batch_idx"])
        for domain, images in part["batch"].items():
            image = images["image"]
            if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[1] != 3:
                raise ValueError(f"the batch's {domain} image is no tensor of (B, 3, H, W)")
            for name in {"label", "pseudo_label"} & images.keys():
                ids = images[name][images[name] != IGNORE]
                if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < labels.num_classes:
                    raise ValueError(
                        f"the batch's {domain} {name} has ids from {int(ids.min())} to "
                        f"{int(ids.max())}, and {labels.name} {labels.num_classes} classes"
                    )


def _change(config: DictConfig, changes: Sequence[str]) -> list[str]:
    """Change settings in place; returns those that have changed, as they were typed."""
    typed = []
    for override in OverridesParser.create().parse_overrides(list(changes)):
        key, line = override.key_or_group, str(override.input_line)
        if key in NOT_SETTINGS:
            continue
        _require_single(config, override)
        before = OmegaConf.select(config, key)
        try:
            OmegaConf.update(config, key, override.value(), force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{line} cannot be set: {error}") from error
        if OmegaConf.select(config, key) != before:
            typed.append(line)
    return typed


def _require_single(config: DictConfig, override: Override) -> None:
    """Refuse what is no single setting of a step.

    Raises:
        ConfigError: says what may be changed.
    """
    key, line = override.key_or_group, override.input_line
    above, name = key.rpartition(".")[::2]
    place = OmegaConf.select(config, above) if above else config
    is_known = OmegaConf.is_dict(place) and name in place
    is_single = not (is_known and OmegaConf.is_dict(place[name]))
    if "/" in key or "@" in key or override.is_delete() or not is_single:
        raise ConfigError(
            f"{line} cannot be changed in a replay, whose configuration is composed already; "
            "change single settings, such as trainer.precision=32-true or method.lr=1e-5"
        )
    group, _, rest = key.partition(".")
    has_part = (
        key in SINGLE or (rest and group in GROUPS) or (group == "trainer" and rest in TRAINER)
    )
    if not has_part:
        raise ConfigError(
            f"{line} would change nothing in a replay, whose batch is in its file; what may be "
            f"changed is {', '.join(f'{group}.*' for group in GROUPS)}, "
            f"{', '.join(sorted(SINGLE))}, trainer.{', trainer.'.join(sorted(TRAINER))}"
        )
    is_lightnings = group == "trainer"  # it has all of them, whether the run has set them or not
    if not (is_known or is_lightnings or override.is_add()):
        raise ConfigError(f"{line} is no setting of the run that the file is of; +{line} adds it")
