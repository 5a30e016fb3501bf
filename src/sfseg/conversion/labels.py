"""Classes as other libraries keep them: names, and colours if at all."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfseg.errors import ConfigError
from sfseg.labels import BUILT_IN, LabelSpace, distinct_colour

BY_HAND = "give them with classes=<a built-in label space or a YAML file>"


def label_space(names: Sequence[str], palette: Sequence[Any] | None, *, source: str) -> LabelSpace:
    """The label space of these names: a built-in one where it has just these.

    Args:
        names: of the classes, in the order of their ids.
        palette: a colour for each, RGB in 0..255; None: none is known.
        source: the file, for the message.

    Raises:
        ConfigError: names or colours that no label space can have.
    """
    for space in BUILT_IN.values():
        if tuple(names) == space.classes and palette in (None, [list(c) for c in space.palette]):
            return space
    colours = [distinct_colour(k) for k in range(len(names))] if palette is None else palette
    try:
        values = {"name": "converted", "classes": list(names), "palette": colours}
        return LabelSpace.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"source={source} has unusable classes: {error}; {BY_HAND}") from error


def of_ids(id2label: Mapping[int, str], palette: Any, *, source: str) -> LabelSpace:
    """The label space of a configuration of transformers.

    Args:
        id2label: name of each id.
        palette: what we have written there ourselves, see :func:`sfseg.conversion.folder.write`.
        source: the folder, for the message.

    Raises:
        ConfigError: ids that do not count from 0, or see :func:`label_space`.
    """
    ids = sorted(int(k) for k in id2label)
    if ids != list(range(len(ids))):
        raise ConfigError(
            f"source={source} has id2label with the ids {ids}, which do not count from 0; {BY_HAND}"
        )
    names = [str(id2label[k]) for k in ids]
    return label_space(names, palette if isinstance(palette, list) else None, source=source)
