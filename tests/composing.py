"""What Hydra and OmegaConf work out again for every composition, remembered for a whole process.

A command composes its configuration twice, from about 40 files, and resolves hundreds of
interpolations; most tests of a command pay more for that than for what they look at. What is
remembered follows from the files of ``conf`` and the chosen options alone: with a user's own
folder beside them nothing is.
"""

from collections.abc import Hashable
from copy import deepcopy
from functools import cache
from typing import Any

import omegaconf.base
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource

from sfseg.config.composition import CONF

OURS = f"file://{CONF}"

_parsed = omegaconf.base.parse
_read = FileConfigSource.load_config
_merged = ConfigLoaderImpl._compose_config_from_defaults_list
_kept: dict[Hashable, Any] = {}


def remember() -> None:
    """Let every composition of this process, and of those that it forks, share the work."""
    omegaconf.base.parse = cache(_parsed)
    FileConfigSource.load_config = read  # type: ignore[method-assign]
    ConfigLoaderImpl._compose_config_from_defaults_list = merged  # type: ignore[method-assign]


def read(source: FileConfigSource, config_path: str) -> Any:
    """A file of the configuration; who asks may change what he gets."""
    if source.path != OURS:
        return _read(source, config_path)
    key = (config_path, source.provider)
    if key not in _kept:
        _kept[key] = _read(source, config_path)
    return deepcopy(_kept[key])


def merged(loader: ConfigLoaderImpl, defaults: Any, repo: Any) -> Any:
    """The files of a list of defaults in one, before settings of the command line change it."""
    paths = tuple(source.path for source in repo.get_sources())
    if any(path.startswith("file://") and path != OURS for path in paths):
        return _merged(loader, defaults, repo)
    key = (repr(defaults), paths)
    if key not in _kept:
        _kept[key] = _merged(loader, defaults, repo)
    return deepcopy(_kept[key])
