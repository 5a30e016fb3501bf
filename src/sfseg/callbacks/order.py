"""Callbacks that need others: the order that suits all, and each handed what it asks for."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from sfseg.errors import ConfigError

Kind = TypeVar("Kind", bound=Callback)
DEFAULT = frozenset({
    "finite", "label_free_score", "selection", "progress", "checkpoint", "results", "panels", "cost"
})  # fmt: skip
"""What ``callbacks=[default]`` holds."""


class Ordered(Callback):
    """A callback that says which others it wants, and whether before or after itself.

    needs: classes that must be there; they run before it.
    after: classes that run before it where they are there.
    before: classes that run after it where they are there.
    others: what it needs or runs after, handed to it by :func:`ordered`.
    """

    needs: Sequence[type[Callback]] = ()
    after: Sequence[type[Callback]] = ()
    before: Sequence[type[Callback]] = ()
    others: Sequence[Callback] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for kind in self.needs:
            self.needed(kind)

    def given(self, kind: type[Kind]) -> list[Kind]:
        """All of a class that it was handed."""
        return [callback for callback in self.others if isinstance(callback, kind)]

    def needed(self, kind: type[Kind]) -> Kind:
        """The first of a class that it needs.

        Raises:
            ConfigError: it was not handed one.
        """
        if not (found := self.given(kind)):
            own, other = type(self).__name__, kind.__name__
            raise ConfigError(
                f"{own} needs {other} and was not given one; build the trainer with "
                f"callbacks=sfseg.callbacks.order.ordered([{other}(...), {own}(...)])"
            )
        return found[0]


def ordered(callbacks: Mapping[str, Callback] | Sequence[Callback]) -> list[Callback]:
    """Callbacks in an order that suits all; hands each what it needs or runs after.

    What need not move for that keeps its place among the others.

    Args:
        callbacks: by their names in the configuration, or without names, as for a
            ``Trainer(callbacks=ordered([...]))`` of one's own.

    Raises:
        ConfigError: one that is needed is not there, or some must run before each other.
    """
    if isinstance(callbacks, Mapping):
        names, found = list(callbacks), list(callbacks.values())
    else:
        names, found = [_key(type(callback)) for callback in callbacks], list(callbacks)
    earlier = _earlier(names, found)
    try:
        TopologicalSorter(earlier).prepare()
    except CycleError as error:
        cycle = " before ".join(f"callbacks.{names[k]}" for k in error.args[1])
        raise ConfigError(f"callbacks want to run {cycle}; take one of them out") from error
    order: list[int] = []
    while len(order) < len(found):
        order.append(next(k for k in earlier if k not in order and earlier[k] <= set(order)))
    return [found[k] for k in order]


def _earlier(names: Sequence[str], found: Sequence[Callback]) -> dict[int, set[int]]:
    """Places of the callbacks that run before each; hands them to those that ask for them."""
    earlier: dict[int, set[int]] = {k: set() for k in range(len(found))}
    for k, callback in enumerate(found):
        if not isinstance(callback, Ordered):
            continue
        for kind in callback.needs:
            if not _places(found, [kind], k):
                raise ConfigError(_missing(names[k], _key(kind)))
        wanted = _places(found, [*callback.needs, *callback.after], k)
        callback.others = [found[place] for place in wanted]
        earlier[k].update(wanted)
        for later in _places(found, callback.before, k):
            earlier[later].add(k)
    return earlier


def _places(found: Sequence[Callback], kinds: Sequence[type[Callback]], own: int) -> list[int]:
    """Of the callbacks of some classes, but for one's own."""
    return [k for k, other in enumerate(found) if k != own and isinstance(other, tuple(kinds))]


def _missing(name: str, other: str) -> str:
    listed = ",".join(["default", *(n for n in (other, name) if n not in DEFAULT)])
    return (
        f"callbacks.{name} needs callbacks.{other}; add it: callbacks=[{listed}], or leave out "
        f"what needs it: ~callbacks.{name}"
    )


def _key(kind: type[Callback]) -> str:
    """How the configuration calls a callback: as its file is called."""
    return kind.__module__.rpartition(".")[2]
