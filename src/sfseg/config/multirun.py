"""Settings beside a sweep over options of a group, which Hydra looks for before any is chosen."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException

from sfseg.errors import ConfigError

FLAGS = {"-m", "--multirun"}


def left_to_jobs(words: Sequence[str], folder: Path) -> list[str]:
    """A command line whose settings are set in each job, if it sweeps over options of a group.

    Hydra first composes what all jobs share, without what is swept. For ``-m data=a,b
    data.root=x`` that is the default data set, which has no root, and Hydra refuses the setting.
    One that is swept itself it leaves to the jobs, also if it has one value:
    ``data.root=choice(x)``.

    Options that ``glob`` finds are those below a group's folders too, and none that begin with
    ``_``, which others are made of; Hydra's own would take these, and nothing of folders.

    Args:
        words: of the command line.
        folder: of the configuration.

    Raises:
        ConfigError: a ``glob`` matches no option, of which Hydra would make no jobs at all.
    """
    if not FLAGS & set(words):
        return list(words)
    parsed = [_parsed(word) for word in words]
    folders = [folder, *_own_folders(words)]
    groups = [o for o in parsed if o is not None and _is_group(o, folders)]
    if not any(o.is_sweep_override() for o in groups):
        return list(words)
    return [
        word if o is None else _choice(word, o, folders) if o in groups else _swept(word, o)
        for word, o in zip(words, parsed, strict=True)
    ]


def _own_folders(words: Sequence[str]) -> list[Path]:
    """The user's own folder of configurations, where one is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    own = parser.parse_known_args(list(words))[0].config_dir
    return [] if own is None else [own]


def _is_group(override: Override, folders: Sequence[Path]) -> bool:
    return any((folder / override.key_or_group).is_dir() for folder in folders)


def _choice(word: str, override: Override, folders: Sequence[Path]) -> str:
    """The options of a group by their names, where a pattern stands for them."""
    pattern = override.value()
    if not isinstance(pattern, Glob):
        return word
    options = {
        path.relative_to(group).with_suffix("").as_posix()
        for group in (folder / override.key_or_group for folder in folders)
        for path in group.rglob("*.yaml")
        if not path.name.startswith("_")
    }
    found = pattern.filter(sorted(options))
    if not found:
        raise ConfigError(f"{word} matches none of {', '.join(sorted(options))}")
    return f"{word.partition('=')[0]}={','.join(found)}"


def _swept(word: str, override: Override) -> str:
    """A setting as a sweep over its one value; what is none, or is swept already, as it is.

    So are values that a sweep would change or not take: null, and text that looks like a number.
    """
    if (
        override.type != OverrideType.CHANGE
        or override.is_sweep_override()
        or override.is_hydra_override()
    ):
        return word
    key, _, value = word.partition("=")
    own = override.value()
    forms = [value, *([QuotedString(own, Quote.single).with_quotes()] if type(own) is str else [])]
    for form in forms:
        sweep = _parsed(f"{key}=choice({form})")
        if sweep is not None:
            (seen,) = (_parsed(f"{key}={text}") for text in sweep.sweep_string_iterator())
            if seen is not None and seen.value() == own and type(seen.value()) is type(own):
                return f"{key}=choice({form})"
    return word


def _parsed(word: str) -> Override | None:
    """None for options, and for what Hydra will not understand and say so."""
    if word.startswith("-"):
        return None
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None
