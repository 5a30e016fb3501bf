"""Parts of a web page that is one file: pictures lie inside it, nothing is fetched."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import cv2

from sfseg.errors import ConfigError, DataError, OutputError
from sfseg.report.drawing import Pixels
from sfseg.storage.atomic import write_whole

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
table.facts td { text-align: left; overflow-wrap: anywhere; }
table.facts td:first-child { white-space: nowrap; }
tr { border-bottom: 1px solid #ddd; } th { font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 11.4rem; } figure img { width: 100%; display: block; }
figcaption { font-size: .8rem; color: #555; overflow-wrap: anywhere; }
.bars { width: 16rem; } .bars svg { display: block; width: 100%; height: 1.1rem; }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem; }
"""
MARK = '<meta name="generator" content="sfseg">'
"""Tells pages of ours from others'."""
FIRST, SECOND = "#2f6db3", "#c9a227"
"""Colours of the bars of two sets."""
QUALITY = 88
"""Of JPEG, 0..100: pictures of a page are there to be looked at."""


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """A page of sections, each a heading and HTML."""
    body = "\n".join(f"<h2>{escape(head)}</h2>\n{content}" for head, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        f'{MARK}\n<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def is_page(path: Path) -> bool:
    """Whether a file is a page that :func:`page` has made."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(500)


def require_place(out: Path) -> None:
    """Refuse a place where no page can be: nothing but an earlier page is replaced.

    Raises:
        ConfigError: a folder, no name of a page, or another file is there.
    """
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; name the page, such as {out / 'report.html'}")
    if out.suffix.lower() != ".html":
        raise ConfigError(
            f"out={out} must end in .html; name the page, such as {out.with_suffix('.html')}"
        )
    if out.exists() and not is_page(out):
        raise ConfigError(f"out={out} is there and no page of sfseg; choose another name")


def write_page(out: Path, content: bytes) -> None:
    """Write a page, whole or not at all.

    Raises:
        OutputError: the folder or the disk takes nothing.
    """
    try:
        write_whole(out, lambda file: file.write(content))
    except OSError as error:
        raise OutputError(f"out={out} cannot be written: {error}") from error


def paragraph(text: str) -> str:
    """Text, whatever characters it holds."""
    return f"<p>{escape(text)}</p>"


def facts(entries: Iterable[tuple[str, object]]) -> str:
    """Names and values below each other."""
    rows = (f"<tr><td>{escape(n)}</td><td>{escape(str(value))}</td></tr>" for n, value in entries)
    return f'<table class="facts">{"".join(rows)}</table>'


def comparison(
    header: Sequence[str],
    names: tuple[str, str],
    rows: Iterable[tuple[Sequence[str], float, float]],
) -> str:
    """A table of which each row ends in two bars.

    Args:
        header: of the cells.
        names: what the bars stand for.
        rows: cells, and the lengths of the bars in [0, 1].
    """
    first, second = names
    key = (
        f'<p><span class="key" style="background:{FIRST}"></span>{escape(first)}'
        f'<span class="key" style="background:{SECOND}"></span>{escape(second)}</p>'
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for cells, one, two in rows:
        bars = (
            '<svg viewBox="0 0 100 10" preserveAspectRatio="none">'
            f'<rect fill="{FIRST}" width="{100 * one:.2f}" height="4.5"/>'
            f'<rect fill="{SECOND}" y="5.5" width="{100 * two:.2f}" height="4.5"/></svg>'
        )
        text = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr>{text}<td class="bars">{bars}</td></tr>')
    return f"{key}<table><tr>{head}<th></th></tr>{''.join(lines)}</table>"


def figures(pictures: Iterable[tuple[str, Pixels]]) -> str:
    """RGB pictures (H, W, 3) side by side, each with its caption."""
    shown = (
        f'<figure><img alt="{escape(caption)}" src="{data_uri(image)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, image in pictures
    )
    return f'<div class="figures">{"".join(shown)}</div>'


def data_uri(image: Pixels) -> str:
    """An RGB picture (H, W, 3) as an address that holds it, as JPEG.

    Raises:
        DataError: no image has this shape.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not encoded:
        raise DataError(f"an image of shape {image.shape} cannot be encoded as JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
