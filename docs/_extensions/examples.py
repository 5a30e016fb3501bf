"""A directive that shows folders of small example files: pictures and texts as they are."""

from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TEXT = {".yaml", ".txt"}
SHOWN = {".png", ".jpg", ".webp"}
"""What browsers show."""


class Examples(SphinxDirective):
    """A section for each folder that holds files or ``images`` in a folder beside the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        if not root.is_dir():
            raise self.error(f"{self.arguments[0]} is no folder beside the page")
        folders = [f for f in sorted(root.iterdir()) if f.is_dir() and f.name != "pictures"]
        return [self._section(folder) for folder in folders]

    def _section(self, folder: Path) -> nodes.section:
        label = f"own-data-{folder.name.replace('_', '-')}"
        section = nodes.section("", nodes.title("", folder.name), ids=[label], names=[label])
        self.state.document.note_explicit_target(section, section)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.env.note_dependency(str(file))
            name = nodes.literal(text=file.relative_to(folder).as_posix())
            if file.suffix in TEXT:
                text = file.read_text()
                block = nodes.literal_block(text, text, language="yaml")
                section += [nodes.paragraph("", "", name), block]
            elif file.suffix in SHOWN:
                place = file.relative_to(self.env.srcdir).as_posix()
                picture = nodes.image("", uri=place, alt=file.name, classes=["enlarged"])
                section += nodes.paragraph("", "", name, nodes.Text(f": {_kind(file)} "), picture)
            else:
                section += nodes.paragraph("", "", name)
        return section


def _kind(file: Path) -> str:
    """Format, mode and size of a picture in words."""
    with Image.open(file) as picture:
        width, height = picture.size
        return f"{picture.format}, {picture.mode}, {width}x{height}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("examples", Examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
