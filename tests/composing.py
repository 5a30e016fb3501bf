"""What Hydra and OmegaConf work out again for every composition, remembered for a whole process.

A command composes its configuration twice, from about 40 files, and resolves hundreds of
interpolations; most tests of a command pay more for that than for what they look at. What is
remembered follows from the files of ``conf`` and the chosen options alone: of a user's own folder
beside them nothing is. Copies are made by pickle, seven times as fast as OmegaConf's own.
"""

import pickle
from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra._internal.config_loader_impl as loading
import hydra._internal.defaults_list as listing
import omegaconf.base
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig

from sfseg.config.composition import CONF

OURS = {str(CONF), str(Path(__file__).parent / "conf")}

_parsed = omegaconf.base.parse
_load = ConfigRepository.load_config
_listed = loading.create_defaults_list
_choices = listing._create_interpolation_map
_place = loading.ConfigLoaderImpl._load_single_config
_merge = loading.ConfigLoaderImpl._compose_config_from_defaults_list
_kept: dict[Hashable, Any] = {}
_latest: list[str] = []


def remember() -> None:
    """Let every composition of this process, and of those that it forks, share the work."""
    omegaconf.base.parse = cache(_parsed)
    ConfigRepository.load_config = load  # type: ignore[method-assign]
    loading.create_defaults_list = listed
    listing._create_interpolation_map = choices
    loading.ConfigLoaderImpl._load_single_config = placed  # type: ignore[method-assign]
    loading.ConfigLoaderImpl._compose_config_from_defaults_list = merged  # type: ignore[method-assign]


def load(repo: Any, config_path: str) -> Any:
    """A file, as all who ask share it; see :func:`placed` for those who change it."""
    source = repo._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or not is_lasting(source):
        return _load(repo, config_path)
    key = ("file", config_path, source.path, source.provider)
    if key not in _kept:
        _kept[key] = _load(repo, config_path)
    return copy(_kept[key])


def listed(repo: Any, config_name: str, overrides_list: Sequence[Any], **settings: bool) -> Any:
    """The list of defaults that options of the command line lead to, and its settings."""
    values = [override for override in overrides_list if not is_option(override, repo)]
    options = tuple(o.input_line for o in overrides_list if is_option(o, repo))
    if not any("???" in option for option in options):
        # No list of ours lacks an option, so that the two compositions of a command share theirs.
        settings["skip_missing"] = False
    key = ("list", config_name, options, places(repo), *settings.items())
    if key not in _kept:
        found = _listed(repo, config_name, overrides_list, **settings)
        if not are_lasting(repo):
            return found
        _kept[key] = found
    return replace(_kept[key], config_overrides=values)


def is_option(override: Any, repo: Any) -> bool:
    """Whether it chooses files, or will in a job of a sweep, rather than setting a value."""
    if override.is_sweep_override():
        return True
    return not isinstance(override.value(), dict) and repo.group_exists(override.key_or_group)


def choices(overrides: Any, defaults: Sequence[Any], self_added: bool) -> Any:
    """What interpolations in a list of defaults may ask for; most lists hold none."""
    if any("${" in str(vars(default)) for default in defaults):
        return _choices(overrides, defaults, self_added)
    return None


@dataclass(frozen=True)
class Begun:
    """The beginning of a list of defaults, in place of its files."""

    config: DictConfig


def placed(loader: Any, default: Any, repo: Any) -> Any:
    """A copy of a file, its settings below its package."""
    if isinstance(default, Begun):
        return default
    key = ("placed", default.config_path, default.package, default.primary, places(repo))
    kept = _kept.get(key)
    if kept is None:
        kept = pickle.dumps(_place(loader, default, repo))
        if are_lasting(repo):
            _kept[key] = kept
    return pickle.loads(kept)


def merged(loader: Any, defaults: Any, repo: Any) -> Any:
    """The files of a list of defaults in one, before settings of the command line change it.

    Lists that follow each other mostly begin alike, and adding a file costs with all before it.
    """
    if not are_lasting(repo):
        return _merge(loader, defaults, repo)
    names = [*places(repo), *map(repr, defaults)]
    if (kept := _kept.get(("merged", *names))) is not None:
        return pickle.loads(kept)
    same = len(names) - len(defaults)
    while same < min(len(_latest), len(names)) and _latest[same] == names[same]:
        same += 1
    _latest[:] = names
    shared = same + len(defaults) - len(names)
    rest = defaults
    if 0 < shared < len(defaults):
        rest = [Begun(merged(loader, defaults[:shared], repo)), *defaults[shared:]]
        _latest[:] = names
    found = _merge(loader, rest, repo)
    _kept["merged", *names] = pickle.dumps(found)
    return found


def is_lasting(source: ConfigSource) -> bool:
    """Whether its files stay as they are: those of the project and of packages."""
    return source.scheme() != "file" or source.path in OURS


def are_lasting(repo: Any) -> bool:
    """Whether that is so of all places where files are looked for."""
    return all(map(is_lasting, repo.get_sources()))


def places(repo: Any) -> tuple[str, ...]:
    """Where files are looked for."""
    return tuple(source.path for source in repo.get_sources())
