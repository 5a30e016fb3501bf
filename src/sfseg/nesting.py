"""Containers from files: a few hundred bytes of references may stand for more than memory holds."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST = 100_000


def require_small(content: Any, what: str) -> None:
    """Refuse nested containers that would be large when they are written out.

    Args:
        content: as it was read, each part counted as often as it is referred to.
        what: its name for the message.

    Raises:
        ValueError: more than :data:`MOST` parts, or one that holds itself.
    """
    rest, count = [content], 0
    while rest:
        part = rest.pop()
        count += 1
        if count > MOST:
            raise ValueError(f"{what} holds more than {MOST} values, or holds itself")
        if isinstance(part, Mapping):
            rest += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple, set, frozenset)):
            rest += part


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of nested groups with their full names, such as ``data.root``."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node
