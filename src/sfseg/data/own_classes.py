"""How masks are read that a user's file of classes describes, or that of another task."""

import logging
from pathlib import Path

from sfseg.data.classes_file import described, load_label_space
from sfseg.data.decoding import Decoding, Palette, Rgb
from sfseg.data.label_ids import id_table
from sfseg.types import IGNORE

log = logging.getLogger(__name__)


def decoding_of(classes: str | Path, task: str | Path | None = None) -> Decoding:
    """How masks of these classes are read as those of the task.

    Args:
        classes: what the masks hold: a built-in label space or a YAML file, see
            :class:`sfseg.data.classes_file.ClassesFile`.
        task: the label space that ids are mapped to by the names of the classes; those that it
            lacks are void. None: that of ``classes``.

    Raises:
        ValueError: a file that cannot be used, or no name in common.
    """
    file, labels = described(classes), load_label_space(classes if task is None else task)
    places = {name: k for k, name in enumerate(labels.classes)}
    lacking = [name for name in file.task if name not in places]
    if len(lacking) == len(file.task):
        raise ValueError(
            f"none of the classes of {classes} is one of the task's ({task}): {lacking} and "
            f"{list(places)}; 'map' in a file with `classes: {classes}` gives them other names"
        )
    if lacking:
        log.warning(
            "%s: %s are no classes of the task (%s) and read as void; 'map' in such a file gives "
            "them other names, or null to say that void is meant",
            classes, ", ".join(lacking), labels.name,
        )  # fmt: skip
    ids = [IGNORE if name is None else places.get(name, IGNORE) for name in file.targets]
    stored = {value: k for values, k in zip(file.values, ids, strict=True) for value in values}
    rgb: Rgb = "unnamed"
    palette = None
    if file.channel is not None:
        rgb = file.channel
    elif file.colours is not None:
        rgb = "palette"
        colours = {c: k for several, k in zip(file.colours, ids, strict=True) for c in several}
        palette = Palette(dict.fromkeys(file.ignored_colours, IGNORE) | colours, file.nearest)
    table = id_table(stored, ignored=[*file.ignored_ids, IGNORE])
    return Decoding(labels, table, rgb, palette, str(classes) if Path(classes).is_file() else "")
