"""What ``map`` of a ``classes.yaml`` makes of classes, and what it cannot mean."""

import difflib
from collections.abc import Mapping, Sequence

NO_CLASS = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "none", "nothing")
"""Names by which people mean pixels that do not count."""


def require_sensible(new_names: Mapping[str, str | None], names: Sequence[str], where: str) -> None:
    """Refuse a map that makes a class by a slip of the pen.

    Args:
        new_names: of some of the classes; None drops a class.
        names: of all classes.
        where: the file, for the message.

    Raises:
        ValueError: a name that means no class, that is nearly one of ``names``, or that is mapped
            itself.
    """
    # What a class may be merged with keeps its name.
    kept = [name for name in names if name not in new_names]
    for old, new in new_names.items():
        if new is None:
            continue
        is_new = new not in names
        if is_new and (new.lower() in NO_CLASS or new.isdecimal()):
            raise ValueError(
                f"'map' of {where} makes {new!r} of {old!r}, which would be a class; write null "
                "where pixels are not to count, and names for classes"
            )
        if is_new and (close := difflib.get_close_matches(new, kept, n=1, cutoff=0.8)):
            raise ValueError(
                f"'map' of {where} makes {new!r} of {old!r}, which is no class; did you mean "
                f"{close[0]!r}?"
            )
        if new_names.get(new, new) != new:
            raise ValueError(
                f"'map' of {where} makes {new!r} of {old!r} and {new_names[new]!r} of {new!r}; "
                "name the last one for both"
            )
