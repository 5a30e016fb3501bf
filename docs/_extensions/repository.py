"""Links that lead readers of the repository to files lead readers of the site to pages."""

import re

from sphinx.application import Sphinx

LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
PAGES = {
    "../README.md": "index.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "own_data": "own_data_examples.md",
    "own_data/pictures": "own_data_examples.md#pictures",
}
"""Files and folders, as a page of this folder names them, and the pages that hold them."""


def on_the_site(text: str) -> str:
    """A page's text with every such link changed: also modules and examples of own data."""
    return LINK.sub(_changed, text)


def _changed(link: re.Match[str]) -> str:
    words, path, anchor = link[1], link[2].removesuffix("/"), link[3] or ""
    if path in PAGES:
        return f"[{words}]({PAGES[path]}{anchor})"
    if module := re.fullmatch(r"(?:\.\./)+src/(sfseg/[\w/]+)\.py", path):
        name = module[1].replace("/", ".")
        return f"{{py:mod}}`{words.strip('`')} <{name}>`"
    if example := re.fullmatch(r"own_data/(?:pictures/)?(\w+)", path):
        return f"{{ref}}`{words} <own-data-{example[1].replace('_', '-')}>`"
    return link[0]


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change a page before it is parsed."""
    if app.env.doc2path(docname).suffix == ".md":
        source[0] = on_the_site(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Read every page."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
