"""Directives that show the files of ``conf`` as they are.

``settings`` is the table of one file's settings; of a method those of the files that it builds on
too. ``options`` lists what a group offers.
"""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from settings import CONF, Setting, header, inherited, options, settings
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Settings(SphinxDirective):
    """A table: setting, default, meaning.

    The argument is a file of ``conf`` without its ending; ``:prefix:`` stands before every name,
    ``:inherited:`` adds the files that it builds on, but for those named.
    """

    required_arguments = 1
    option_spec = {  # noqa: RUF012  (docutils' own kind)
        "prefix": directives.unchanged,
        "inherited": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        path = CONF / f"{self.arguments[0]}.yaml"
        if not path.is_file():
            raise self.error(f"conf has no {path.name} in {path.parent.name}")
        self.env.note_dependency(str(path))
        prefix = self.options.get("prefix", "")
        if "inherited" in self.options:
            group, _, option = self.arguments[0].rpartition("/")
            found = inherited(group, option, without=tuple(self.options["inherited"].split()))
        else:
            found = settings(path)
        shown = [s for s in found if not _is_wiring(s)]
        if not shown:
            return [nodes.paragraph("", "It has no settings of its own.")]
        return [_table(prefix, shown)]


class Options(SphinxDirective):
    """A list of a group's options, each with what its file says of itself and the file.

    ``:brief:`` leaves the files out.
    """

    required_arguments = 1
    option_spec = {"brief": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        group = self.arguments[0]
        listed = nodes.definition_list()
        for option in options(group):
            path = CONF / group / f"{option}.yaml"
            self.env.note_dependency(str(path))
            name = nodes.term("", "", nodes.literal(text=option))
            item = nodes.definition_list_item("", name, self._said(path))
            listed += item
        if not listed.children:
            raise self.error(f"conf/{group} has no options")
        return [listed]

    def _said(self, path: Path) -> nodes.definition:
        said = nodes.definition("", *_paragraphs(header(path)))
        if "brief" not in self.options:
            said += nodes.raw("", "<details><summary>the file</summary>", format="html")
            body = path.read_text()
            said += nodes.literal_block(body, body, language="yaml")
            said += nodes.raw("", "</details>", format="html")
        return said


def _is_wiring(setting: Setting) -> bool:
    last = setting.name.rpartition(".")[2]
    return last in {"_target_", "_partial_"} or setting.name == "needs"


def _paragraphs(text: str) -> list[nodes.Node]:
    """A comment, whose indented lines are kept as they are."""
    if any(line.startswith("  ") for line in text.splitlines()):
        return [nodes.line_block("", *(nodes.line("", line.strip()) for line in text.splitlines()))]
    return [nodes.paragraph("", text)] if text else []


def _table(prefix: str, found: list[Setting]) -> nodes.table:
    head = ("setting", "default", "meaning")
    rows: list[tuple[nodes.Node, ...]] = [
        (nodes.literal(text=prefix + s.name), _value(s), nodes.Text(s.comment)) for s in found
    ]
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in (30, 25, 45)]
    group += nodes.thead("", _row(tuple(nodes.Text(word) for word in head)))
    group += nodes.tbody("", *(_row(row) for row in rows))
    return nodes.table("", group, classes=["settings"])


def _value(setting: Setting) -> nodes.Node:
    return nodes.literal(text=setting.value) if setting.value else nodes.Text("")


def _row(cells: tuple[nodes.Node, ...]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("settings", Settings)
    app.add_directive("options", Options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
