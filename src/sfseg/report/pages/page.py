"""Pages of templates: one file each, which opens from a disk and asks no network for anything."""

import base64
import hashlib
import math
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sfseg.report.html import MARK
from sfseg.report.tables import percent

SCRIPT = "slider.js"


@cache
def environment() -> Environment:
    """The templates; whatever a run calls itself is text in them."""
    made = Environment(
        loader=PackageLoader("sfseg.report.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = percent
    made.filters["gain"] = lambda share: percent(share, signed=True)
    made.tests["known"] = lambda value: not math.isnan(value)
    made.globals["mark"], made.globals["nan"] = MARK, math.nan
    made.globals["script"] = script()
    made.globals["script_hash"] = base64.b64encode(
        hashlib.sha256(script().encode()).digest()
    ).decode()
    return made


def script() -> str:
    """The only script that a page runs; it names its checksum, so that browsers run no other."""
    folder = resources.files("sfseg.report.pages") / "templates"
    return (folder / SCRIPT).read_text(encoding="utf-8").strip()


def render(template: str, values: dict[str, Any]) -> bytes:
    """A page as the content of its file."""
    text = environment().get_template(template).render(values)
    return text.encode("utf-8", "backslashreplace")
