"""What every page of a method has beside its text, taken from the method's configuration.

Under the title: the command, what the method needs and its class; at the end its settings. A page
of ``methods`` is called as the option of ``conf/method`` that it is about.
"""

import re
from pathlib import Path

import yaml
from settings import CONF, lineage
from sphinx.application import Sphinx

NEEDS = {
    "source": "labelled images of the source",
    "target": "images of the target",
    "target_labels": "the target's labels",
    "pseudo_labels": "pseudo-labels, which the source model makes",
    "source_model": "a source model",
    "source_eval": "test images of the source",
    "generated": "generated images",
    "${start}": "a source model, or the backbone's own weights (`start=backbone`)",
}


def needs(method: str) -> list[str]:
    """The words of the method's ``needs``, its own or those of the file that it builds on."""
    found: list[str] = []
    for content in _contents(method):
        found = content.get("needs", found)
    return found


def target(method: str) -> str:
    """Dotted name of the method's class."""
    return [content["_target_"] for content in _contents(method) if "_target_" in content][-1]


def completed(method: str, text: str) -> str:
    """A method's page with what its configuration says."""
    title, _, rest = text.partition("\n")
    named = "; ".join(NEEDS[word] for word in needs(method))
    command = f"sfseg-train method={method}"
    return f"""{title}

`{command}` needs {named}. Class: {{py:class}}`~{target(method)}`.
{rest}
## Settings

Those of its own, with what they build on; what every method has (`lr`, `optimizer`, `schedule`) is
[listed once](../configuration/index.md#method).

```{{settings}} method/{method}
:prefix: method.
:inherited: _base
```
"""


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Complete a page of a method."""
    found = re.fullmatch(r"methods/(\w+)", docname)
    if found and found[1] != "index":
        source[0] = completed(found[1], source[0])


def _contents(method: str) -> list[dict[str, object]]:
    files = (Path(CONF / "method" / f"{name}.yaml") for name in lineage("method", method))
    return [yaml.safe_load(file.read_text()) for file in files]


def setup(app: Sphinx) -> dict[str, bool]:
    """Read every page."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
