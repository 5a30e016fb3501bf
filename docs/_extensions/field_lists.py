"""Docstrings that list the fields of a class one by one, as ``name: what it holds``."""

import re
from typing import Any

from sphinx.application import Sphinx

FIELD = re.compile(r"[a-z]\w*(, [a-z]\w*)*: ")


def as_attributes(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Put the list under ``Attributes:``, so that Napoleon reads it."""
    if what != "class":
        return
    for number, line in enumerate(lines):
        found = FIELD.match(line)
        if found and number and not lines[number - 1]:
            end = next((k for k in range(number, len(lines)) if not lines[k]), len(lines))
            lines[number:end] = ["Attributes:", *(f"    {own}" for own in lines[number:end])]
            return


def setup(app: Sphinx) -> dict[str, bool]:
    """Read docstrings before Napoleon does."""
    app.connect("autodoc-process-docstring", as_attributes, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
