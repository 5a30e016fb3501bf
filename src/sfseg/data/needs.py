"""Which sets a method's needs open, and which of them its training batches show."""

from collections.abc import Mapping, Sequence

from sfseg.data.folder import ScenesFactory
from sfseg.errors import ConfigError

NEEDS = (
    "source", "source_eval", "target", "target_labels", "generated", "pseudo_labels",
    "source_model", "backbone",
)  # fmt: skip
DOMAINS = {"source": {"source"}, "target": {"target", "target_labels"}}
"""Domains of a training batch, and the needs that ask for each."""


def served_domains(needs: Sequence[str]) -> tuple[str, ...]:
    """Domains of a training batch."""
    return tuple(domain for domain, asks in DOMAINS.items() if asks & set(needs))


def wanted_sets(
    needs: Sequence[str], scenes: Mapping[str, ScenesFactory | None], *, shows_style: bool
) -> dict[str, ScenesFactory]:
    """What opens each set that is needed, by its name.

    Args:
        needs: what the method asks for.
        scenes: what opens each set, None where there is none.
        shows_style: whether the source is shown in the style of the target, whose images are then
            opened even if no batch serves them.

    Raises:
        ConfigError: there is none of a set that training needs.
        ValueError: needs that are unknown, or none.
    """
    unknown = set(needs) - set(NEEDS)
    if unknown or not needs:
        raise ValueError(f"needs must name some of {NEEDS}, got {list(needs)}")
    wanted = {"target_eval", *(f"{domain}_train" for domain in served_domains(needs))}
    if {"source", "source_eval"} & set(needs):
        wanted.add("source_eval")
    if shows_style and "source" in needs:
        wanted.add("target_train")
    factories: dict[str, ScenesFactory] = {}
    for name in ("target_eval", "source_train", "source_eval", "target_train"):
        factory = scenes.get(name)
        if name in wanted and factory is not None:
            factories[name] = factory
        elif name in wanted and name.endswith("train"):
            raise ConfigError(f"the method needs data.scenes.{name}, got null; set it")
    return factories
