"""Equations as MathML, which browsers show without a script or a font from elsewhere."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

NAMED = re.compile(r"\\(ln|log|arg|cos)(?= [^(\[])")
"""Functions that TeX sets apart from what follows, and the converter does not."""


BARS = re.compile(r"<mo[^>]*>&#x000AF;</mo>")
"""Bars above letters, which browsers stretch until nothing is seen of them."""


def mathml(latex: str, **settings: str) -> str:
    """A formula as an element of a page."""
    found = convert(NAMED.sub(r"\\\1\\,", latex), **settings)
    return BARS.sub('<mo stretchy="false">&#x02C9;</mo>', found)


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """An equation within a line."""
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def display(self: HTML5Translator, node: nodes.math_block) -> None:
    """An equation of its own line, which scrolls where the screen is too narrow."""
    self.body.append(self.starttag(node, "div", CLASS="equation"))
    self.body.append(mathml(node.astext(), display="block"))
    self.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the renderer to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
