"""What a run's configuration says of the machine and the person it ran on, which is taken out.

A network is built from its settings; where its data lay, and who looked at its curves, is not
among these.
"""

import getpass
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

KEPT = (
    "backbone", "callbacks", "data", "eval_every", "evaluation", "matmul_precision", "method",
    "output_dir", "pseudo_labels", "seed", "select", "source_model", "start", "trainer",
)  # fmt: skip
"""Settings that rebuild the network, are needed to evaluate it, or say how it was trained. Others
say where a run wrote to, what it was called and what it began from."""
PLACES = re.compile(
    r"(\w+_)?(root|folder|folders|dir|dirs|file|path|paths|dirpath|weights|checkpoint|ckpt)"
    r"|generated|translated|start_from|entity|project|host|user"
)
"""Names of settings whose literal values are places of a machine, or names of people."""
ELSEWHERE = re.compile(
    r"""(^|[\s'"=,:;(\[])(/|~(?!/\.cache/)|\\\\|[A-Za-z]:[\\/])"""  # absolute, or of a home
    r"""|(^|[/\\])\.\.([/\\]|$)|://"""
)
"""Texts with a path that leads out of where the run was, or an address."""
PARTS = re.compile(r"[\s/\\@:.=,'\"]+")


class Cleaned(NamedTuple):
    """A configuration that can be shown, and what it does not say any more.

    config: of plain containers.
    taken: full names of settings.
    """

    config: dict[str, Any]
    taken: list[str]


def cleaned(config: Mapping[str, Any]) -> Cleaned:
    """A run's configuration without machine and person.

    A place becomes ``<its setting>``, such as ``<data.root>``, so that who evaluates the network
    reads what to give; interpolations stay.

    Args:
        config: of plain containers, interpolations unresolved; it stays as it is.
    """
    taken = [
        key for key, value in config.items() if key not in KEPT and value not in (None, [], {})
    ]
    names = _names()
    kept = {key: _clean(value, key, names, taken) for key, value in config.items() if key in KEPT}
    return Cleaned(kept, sorted(taken))


def _clean(value: Any, key: str, names: set[str], taken: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _clean(part, f"{key}.{k}", names, taken) for k, part in value.items()}
    if isinstance(value, (list, tuple)):
        # One of a list is of the kind that the list is.
        return [_clean(part, key, names, taken) for part in value]
    if not (isinstance(value, str) and _is_private(value, key.rpartition(".")[2], names)):
        return value
    taken.append(key)
    return f"<{key}>"


def _is_private(value: str, name: str, names: set[str]) -> bool:
    """Whether a text is a place or names a person.

    Args:
        value: the text.
        name: last part of its setting's.
        names: of the user and the machine.
    """
    if name.startswith("_"):  # what is called
        return False
    if ELSEWHERE.search(value):
        return True
    literal = re.sub(r"\$\{.*\}", "", value)
    if PLACES.fullmatch(name) and literal:
        return literal == value
    parts = set(PARTS.split(literal))
    return len(parts) > 1 and bool(parts & names)


def _names() -> set[str]:
    """Of the user and the machine, as far as the system says them."""
    return {name for name in _said() if len(name) > 2}


def _said() -> Iterator[str]:
    with suppress(KeyError, OSError):  # a user without a name
        yield getpass.getuser()
    yield Path.home().name
    host = platform.node()
    yield from (host, host.partition(".")[0])
