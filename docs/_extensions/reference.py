"""The reference: every module of the rooms that programs import from.

A block ``modules`` in a page names a room; each of its modules becomes a section there.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator

from sphinx.application import Sphinx

BLOCK = re.compile(r"^```\{modules\} ([\w.]+)\n```$", re.MULTILINE)
TOP = ("sfseg.types", "sfseg.labels", "sfseg.metrics", "sfseg.optim", "sfseg.errors",
       "sfseg.checks", "sfseg.modes", "sfseg.nesting", "sfseg.randomness")  # fmt: skip
"""Words that every room speaks."""
ROOMS = ("prediction", "methods", "callbacks", "data", "networks", "ops", "pseudo")


def modules(room: str) -> list[str]:
    """Names of the modules of a room, with those of its folders; ``top``: those outside of rooms."""
    return sorted(TOP) if room == "top" else sorted(_walk(f"sfseg.{room}"))


def _walk(package: str) -> Iterator[str]:
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        if module.ispkg:
            yield from _walk(module.name)
        else:
            yield module.name


def listed(block: re.Match[str]) -> str:
    """A section for each module."""
    return "\n".join(
        f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in modules(block[1])
    )


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the sections in place of the block."""
    source[0] = BLOCK.sub(listed, source[0])


def import_once(app: Sphinx) -> None:
    """Before processes are forked, each of which would import torch again."""
    for room in ("top", *ROOMS):
        for name in modules(room):
            importlib.import_module(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Read every page, after the imports."""
    app.connect("builder-inited", import_once)
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
