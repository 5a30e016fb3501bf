"""Settings of a command line that do not exist or are not there, and what may be meant."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

UNKNOWN = re.compile(r"Could not override '([^']+)'")
MISSING = re.compile(r"Missing mandatory value: (\S+)")
WANTED = {
    "data.root": "<folder with classes.yaml, source/ and target/>",
    "data.target_root": "<folder with images/>",
    "data.city": "Rome, Rio, Tokyo or Taipei",
    "ckpt_path": "<run>/checkpoints/last.ckpt",
    "images": "<folder>",
    "output": "<new folder>",
    "to": "<new folder> or to=hf://<owner>/<name>",
}
"""What a setting that has no default may be."""
SUGGESTIONS = 3


def missing(error: Exception) -> str | None:
    """What to add where a setting that has no default was not given; None for other errors."""
    found = MISSING.search(str(error))
    if found is None:
        return None
    key = found[1]
    return f"{key} must be given, it has no default; add {key}={WANTED.get(key, '<value>')}"


def elsewhere(folder: str, key: str) -> list[str]:
    """Options of a group that have a setting of the group, such as ``data.value_range``.

    Args:
        folder: of the configuration.
        key: of the setting.
    """
    group, _, name = key.partition(".")
    files = sorted(p for p in Path(folder, group).glob("*.yaml") if not p.stem.startswith("_"))
    return [f"{group}={p.stem}" for p in files if name in set(_settings(p))]


def _settings(path: Path) -> Iterator[str]:
    """Names that the file of an option sets, and those it takes over from others of its group."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    yield from map(str, content)
    for taken in content.get("defaults", ()):
        if isinstance(taken, str) and (other := path.with_name(f"{taken}.yaml")).is_file():
            yield from _settings(other)


def explain(error: Exception, folder: str, config_name: str, words: Sequence[str]) -> str | None:
    """What may have been meant by a setting that does not exist; None for other errors.

    Hydra's own advice is to add it, and nothing would read it then.

    Args:
        error: Hydra's, about the command line.
        folder: of the configuration.
        config_name: what the command composes.
        words: of the command line.
    """
    found = UNKNOWN.search(str(error))
    if found is None:
        return None
    key = found[1]
    if places := elsewhere(folder, key):
        return f"{key} is no setting here, but of {' and '.join(places)}"
    others = [word for word in words if "=" in word and word.partition("=")[0] != key]
    keys = list(_keys(folder, config_name, others))
    meant = sorted((k for k in keys if k.rpartition(".")[2] == key), key=len)
    meant += difflib.get_close_matches(key, keys, n=SUGGESTIONS, cutoff=0.6)
    close = ", ".join(list(dict.fromkeys(meant))[:SUGGESTIONS])
    way_out = f"did you mean {close}?" if close else "--cfg job lists all"
    return f"{key} is no setting; {way_out}"


def _keys(folder: str, config_name: str, words: Sequence[str]) -> Iterator[str]:
    """Of all settings; the defaults, if the words are of several jobs, or wrong too."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder, version_base="1.3"):
        try:
            config = compose(config_name, overrides=list(words))
        except HydraException:
            config = compose(config_name)
    yield from _below(OmegaConf.to_container(config), "")


def _below(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield f"{prefix}{name}"
            yield from _below(child, f"{prefix}{name}.")
