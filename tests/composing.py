"""What Hydra and OmegaConf work out again for every composition, remembered for a whole process.

A command composes its configuration twice, from about 40 files, and resolves hundreds of
interpolations; most tests of a command pay more for that than for what they look at. What is
remembered follows from the files of ``conf`` and the chosen options alone: of a user's own folder
beside them nothing is.
"""

from collections.abc import Hashable, Sequence
from copy import copy, deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra._internal.config_loader_impl as loading
import omegaconf.base
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource

from sfseg.config.composition import CONF

OURS = {str(CONF), str(Path(__file__).parent / "conf")}

_parsed = omegaconf.base.parse
_load = ConfigRepository.load_config
_listed = loading.create_defaults_list
_merge = loading.ConfigLoaderImpl._compose_config_from_defaults_list
_kept: dict[Hashable, Any] = {}


def remember() -> None:
    """Let every composition of this process, and of those that it forks, share the work."""
    omegaconf.base.parse = cache(_parsed)
    ConfigRepository.load_config = load  # type: ignore[method-assign]
    loading.create_defaults_list = listed
    loading.ConfigLoaderImpl._compose_config_from_defaults_list = merged  # type: ignore[method-assign]


def load(repo: Any, config_path: str) -> Any:
    """A file, as all who ask share it; see :class:`Copies` for those who change it."""
    source = repo._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or not is_lasting(source):
        return _load(repo, config_path)
    key = ("file", config_path, source.path, source.provider)
    if key not in _kept:
        _kept[key] = _load(repo, config_path)
    return copy(_kept[key])


def listed(repo: Any, config_name: str, overrides_list: Sequence[Any], **settings: bool) -> Any:
    """The list of defaults that settings of the command line lead to."""
    lines = tuple(override.input_line for override in overrides_list)
    key = ("list", config_name, lines, places(repo), *settings.items())
    if key not in _kept:
        found = _listed(repo, config_name, overrides_list, **settings)
        if not all(map(is_lasting, repo.get_sources())):
            return found
        _kept[key] = found
    return _kept[key]


def merged(loader: Any, defaults: Any, repo: Any) -> Any:
    """The files of a list of defaults in one, before settings of the command line change it."""
    key = ("merged", repr(defaults), places(repo))
    if key not in _kept:
        found = _merge(loader, defaults, Copies(repo))
        if not all(map(is_lasting, repo.get_sources())):
            return found
        _kept[key] = found
    return deepcopy(_kept[key])


class Copies:
    """Files for one who changes them."""

    def __init__(self, repo: Any) -> None:
        self.repo = repo
        self.get_schema_source = repo.get_schema_source

    def load_config(self, config_path: str) -> Any:
        """A copy of the file."""
        return deepcopy(self.repo.load_config(config_path))


def is_lasting(source: ConfigSource) -> bool:
    """Whether its files stay as they are: those of the project and of packages."""
    return source.scheme() != "file" or source.path in OURS


def places(repo: Any) -> tuple[str, ...]:
    """Where files are looked for."""
    return tuple(source.path for source in repo.get_sources())
