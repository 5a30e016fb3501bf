"""The scores that a run has written of itself, as a card shows them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError
from sfseg.report.scores_file import Scored, scored
from sfseg.report.tables import percent


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The content of a ``results.json``, by set.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(content, dict) and all(isinstance(p, dict) for p in content.values())):
            raise ValueError("it has no scores by set")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); restore it, or remove it to share the model as not "
            "evaluated"
        ) from error


def scored_sets(content: Any, classes: Sequence[str], source: str) -> dict[str, Scored]:
    """Scores by the name of their set.

    Args:
        content: of a ``results.json``.
        classes: of the network.
        source: where it was, for messages.

    Raises:
        ConfigError: it is of other classes, or holds no scores.
    """
    try:
        return {str(name): scored(part, classes) for name, part in content.items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{source} holds no scores of these {len(classes)} classes ({type(error).__name__}: "
            f"{error}); evaluate again, or remove it to share the model as not evaluated"
        ) from error


def per_class(sets: Mapping[str, Scored]) -> tuple[list[str], list[list[str]]]:
    """Header and rows in percent: every class and the means; before, after and gain of each set."""
    labelled = {name: one for name, one in sets.items() if one.is_labelled}
    header, columns = ["class"], []
    for name, one in labelled.items():
        now = {**one.iou, **one.summary}
        if one.before is None:
            header.append(f"{name} IoU")
            columns.append([percent(value) for value in now.values()])
            continue
        old = {**one.before[1], **one.before[0]}
        header += [f"{name} source-only", f"{name} adapted", "gain"]
        columns.append([percent(old[key]) for key in now])
        columns.append([percent(value) for value in now.values()])
        columns.append([percent(now[key] - old[key], signed=True) for key in now])
    if not labelled:
        return header, []
    first = next(iter(labelled.values()))
    return header, [
        [name, *(column[k] for column in columns)]
        for k, name in enumerate([*first.iou, *first.summary])
    ]
