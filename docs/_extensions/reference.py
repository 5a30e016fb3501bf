"""The reference: every public name of the modules that programs import from.

A block ``modules`` in a page names a part of it; each of its modules becomes a section there.
"""

import collections
import gc
import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

import sfseg

BLOCK = re.compile(r"^```\{modules\} (\w+)\n```$", re.MULTILINE)
PARTS = {
    "top": "types labels metrics optim errors",
    "prediction": "prediction.model prediction.result prediction.predictor",
    "methods": "methods.*",
    "callbacks": "callbacks.*",
    "data": "data.module data.training data.eval_sets data.folder data.layouts "
    "data.street_layouts data.classes_file data.geometry data.colour data.crops data.sampling "
    "data.balanced_sampling data.translation data.shots data.replacement data.cache data.paths "
    "data.check data.images data.pseudo_crops",
    "networks": "networks.build networks.segmenter networks.teacher networks.discriminator "
    "networks.adversary networks.batch_norm networks.batch_norm_policy networks.norm_statistics "
    "networks.norm_of_pictures networks.backbones.* networks.heads.* networks.adapters.*",
    "ops": "ops.*",
    "pseudo": "pseudo.reader pseudo.store",
}
"""Page of the reference -> its modules; ``.*`` stands for all of a folder."""


def modules(part: str) -> list[str]:
    """Names of the modules of a page."""
    found: list[str] = []
    for word in PARTS[part].split():
        name = f"sfseg.{word}"
        found += sorted(_walk(name.removesuffix(".*"))) if word.endswith(".*") else [name]
    return found


def unlisted() -> list[str]:
    """Names of all other modules, which docstrings may name but no page shows."""
    shown = {name for part in PARTS for name in modules(part)}
    return sorted(set(_walk("sfseg")) - shown)


def _walk(package: str) -> Iterator[str]:
    found = sfseg if package == "sfseg" else importlib.import_module(package)
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
    for part in PARTS:
        for name in modules(part):
            importlib.import_module(name)
    # A build makes millions of nodes and frees few of them before it ends.
    gc.disable()


def is_left_out(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Fields of named tuples: their class's docstring says what they hold."""
    return True if isinstance(thing, type(collections.namedtuple("Pair", "a").a)) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Read every page, after the imports."""
    app.connect("builder-inited", import_once)
    app.connect("source-read", read)
    app.connect("autodoc-skip-member", is_left_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
