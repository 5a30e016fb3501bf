"""Which sets a method's needs open, and which of them its training batches show."""

from collections.abc import Mapping, Sequence

from sfseg.data.folder import Scenes, ScenesFactory
from sfseg.errors import ConfigError

NEEDS = (
    "source", "source_eval", "target", "target_labels", "generated", "pseudo_labels",
    "source_model", "backbone",
)  # fmt: skip
NO_GENERATED = (
    "the method trains on generated images: let sfseg-generate images make some, and set "
    "data.generated=<their folder>"
)
"""What is said where there are none."""
DOMAINS = {"source": {"source"}, "target": {"target", "target_labels"}}
"""Domains of a training batch, and the needs that ask for each."""


def served_domains(needs: Sequence[str]) -> tuple[str, ...]:
    """Domains of a training batch."""
    return tuple(domain for domain, asks in DOMAINS.items() if asks & set(needs))


def wanted_sets(
    needs: Sequence[str],
    scenes: Mapping[str, ScenesFactory | None],
    *,
    shows_style: bool,
    judged: Sequence[str] = ("target",),
    has_others: bool = False,
) -> dict[str, ScenesFactory]:
    """What opens each set that is needed, by its name.

    Args:
        needs: what the method asks for.
        scenes: what opens each set, None where there is none.
        shows_style: whether the source is shown in the style of the target, whose images are then
            opened even if no batch serves them.
        judged: domains that the method is judged on.
        has_others: whether other images stand for the training images of the target.

    Raises:
        ConfigError: there is none of a set that training needs; names the way out.
        ValueError: needs that are unknown, or none.
    """
    unknown = set(needs) - set(NEEDS)
    if unknown or not needs:
        raise ValueError(f"needs must name some of {NEEDS}, got {list(needs)}")
    evaluated = [f"{domain}_eval" for domain in judged]
    wanted = {*evaluated, *(f"{domain}_train" for domain in served_domains(needs))}
    if {"source", "source_eval"} & set(needs):
        wanted.add("source_eval")
    if shows_style and "source" in needs:
        wanted.add("target_train")
    factories: dict[str, ScenesFactory] = {}
    for name in (*evaluated, "source_train", "source_eval", "target_train"):
        factory = scenes.get(name)
        if name == "target_train" and factory is None and has_others:
            factory = no_images_of_its_own
        if name in wanted and factory is not None:
            factories[name] = factory
        elif name in wanted and name.endswith("train"):
            raise ConfigError(
                f"the method needs data.scenes.{name}, got null; {_way_out(name, needs)}"
            )
    return factories


def no_images_of_its_own() -> Scenes:
    """In place of the training images of a target that has none, only others that stand for them.

    Raises:
        ConfigError: always; these are asked for only where some of them are to be chosen.
    """
    raise ConfigError(
        "data.shots and data.n_shots choose images of the target's training set, of which these "
        "data have none (data.scenes.target_train=null); set them to null"
    )


def _way_out(name: str, needs: Sequence[str]) -> str:
    """What to do where a training set is needed that the data do not have."""
    if name == "source_train":
        return "set it"
    if "generated" in needs:
        return NO_GENERATED
    others = [] if "target_labels" in needs else ["set data.generated=<folder of generated images>"]
    group = "choose data with training images of a target, such as data=gta5_to_cityscapes"
    return ", or ".join([*others, group])
