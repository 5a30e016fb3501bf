"""How a run's settings differ from those that its choices of groups alone would give."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sfseg.config.composition import CONF, plain
from sfseg.errors import ConfigError
from sfseg.nesting import leaves

OWN = ("resume", "output_dir", "seed", "tags", "run_name", "report")
"""Settings that say which run it is."""


def changed_settings(
    config: Mapping[str, Any], overrides: Sequence[str]
) -> list[tuple[str, str, str]] | None:
    """Names of settings, their values by default and in the run; None where these are not known.

    Defaults are today's, of the options of groups that the command line chose (``method=``,
    ``data=``, ``backbone=`` and so on), without a recipe, whose settings are listed.

    Args:
        config: of the run as composed, interpolations unresolved.
        overrides: of its command line.
    """
    chosen = [word for word in overrides if _is_choice(word)]
    if not config:
        return None
    try:
        usual = dict(leaves(_composed(chosen)))
    except (HydraException, OmegaConfBaseException, ConfigError):
        # Of another version, or with options of a folder that is not given here.
        return None
    here = dict(leaves(config))
    return [
        (name, _shown(usual, name), _shown(here, name))
        for name in sorted({*usual, *here})
        if usual.get(name) != here.get(name) and name.partition(".")[0] not in OWN
    ]


def _composed(choices: list[str]) -> dict[str, Any]:
    if GlobalHydra.instance().is_initialized():
        return plain(compose("train", overrides=choices), resolve=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("train", overrides=choices), resolve=False)


def _is_choice(word: str) -> bool:
    """Whether an override chooses an option of a group."""
    group = word.partition("=")[0].lstrip("+")
    return not word.startswith("~") and group != "recipe" and (CONF / group).is_dir()


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return str(settings[name]) if name in settings else "not there"
