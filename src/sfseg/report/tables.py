"""Result tables: per class and per sweep, for terminal, CSV and markdown."""

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfseg.labels import LabelSpace
from sfseg.metrics import MEAN, Scores, averaged
from sfseg.storage.atomic import write_whole

Rows = Sequence[Sequence[str]]
Cell = str | int | float | bool | None
MARKUP = re.compile(r"[\\`*<|&~$]|\](?=[\[(])|(?<![^\W_])_|_(?![^\W_])")
"""Characters that markdown would take for more; an underscore within a word is one."""


def per_class(
    scores: Mapping[str, Scores],
    labels: LabelSpace,
    source_scores: Mapping[str, Scores] | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: IoU of every class and the means, in percent, one column per domain.

    A class that occurs neither in labels nor in predictions shows ``-``. Of a network that was
    adapted, each domain shows the source model's scores first and what was gained last; where
    there are evaluation sets by name, only their mean does, and all others what they have now.
    """
    before = source_scores or {}
    header = ["class"]
    columns: list[list[float]] = []
    has_sets = bool(averaged(scores))
    for domain, after in scores.items():
        if domain in before and (domain == MEAN or not has_sets):
            old, new = _values(before[domain]), _values(after)
            header += [f"{domain} source-only", f"{domain} adapted", "gain"]
            columns += [old, new, [b - a for a, b in zip(old, new, strict=True)]]
        else:
            header.append(f"{domain} IoU")
            columns.append(_values(after))
    names = [*labels.classes, *next(iter(scores.values())).summary()]
    rows = [
        [name, *(percent(column[k], signed=title == "gain") for title, column in
                 zip(header[1:], columns, strict=True))]
        for k, name in enumerate(names)
    ]  # fmt: skip
    return header, rows


def _values(scores: Scores) -> list[float]:
    return [*scores.iou, *scores.summary().values()]


def percent(share: float, *, signed: bool = False) -> str:
    """A share in [0, 1] as percent with two digits; ``-`` for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:{'+' if signed else ''}.2f}"


def mean_spread(shares: Sequence[float], *, signed: bool = False) -> str:
    """Mean and sample standard deviation in percent, as ``61.20 +- 0.45``; ``-`` if any is NaN."""
    if any(math.isnan(share) for share in shares):
        return "-"
    mean = percent(statistics.fmean(shares), signed=signed)
    return mean if len(shares) < 2 else f"{mean} +- {percent(statistics.stdev(shares))}"


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, delimiter: str = ",") -> str:
    """The table as CSV text; cells that hold the delimiter, quotes or line breaks are quoted.

    Fractions have six digits; NaN and None are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", delimiter=delimiter)
    writer.writerow(header)
    writer.writerows([_in_csv(cell) for cell in row] for row in rows)
    return text.getvalue()


def _in_csv(cell: Cell) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.6g}"
    return "" if cell is None else str(cell)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write the table, whole or not at all; folders are made."""
    text = to_csv(header, rows)
    write_whole(path, lambda file: file.write(text.encode()))


def to_markdown(header: Sequence[str], rows: Rows) -> str:
    """The table as GitHub markdown, numbers aligned right; cells show as they are."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    shown = [[_markdown(cell) for cell in cells] for cells in [header, *rows]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [shown[0], rule, *shown[1:]])


def _markdown(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split("\n")))


def show(title: str, header: Sequence[str], rows: Rows) -> None:
    """Draw the table on the terminal; its title alone where there are no columns.

    Numbers stay whole. What has no room beside the first column goes into further tables, where
    that stands again; one whose words are too long is wider than the terminal.
    """
    out = console()
    if not header:
        out.print(Text(title))
        return
    for part, widths in enumerate(blocks(header, rows, out.width)):
        # As Text: in strings, rich looks for its own markup and for emoji such as :car:.
        table = Table(title=None if part else Text(title, style="table.title"))
        for i, width in widths.items():
            justify: Literal["left", "right"] = "right" if i else "left"
            table.add_column(Text(header[i]), justify=justify, width=width, overflow="fold")
        for cells in rows:
            table.add_row(*(Text(cells[i]) for i in widths))
        out.width = max(out.width, _extent(widths.values()))
        out.print(table)


def blocks(header: Sequence[str], rows: Rows, width: int) -> list[dict[int, int]]:
    """Columns of each table that shows a part of them, the first one among them, and their widths.

    Titles fold at spaces where there is no room for them, and names of rows if they alone would
    fill the terminal.

    Args:
        header: titles of the columns, at least one.
        rows: their cells.
        width: of the terminal in characters.
    """
    names, *others = ([cells[i] for cells in rows] for i in range(len(header)))
    least = [max(map(cell_len, [*cells, *title.split()]), default=0)
             for title, cells in zip(header[1:], others, strict=True)]  # fmt: skip
    room = width - _extent([0, max(least)]) if least else width - _extent([0])
    words = [word for name in [header[0], *names] for word in name.split()]
    whole = max(map(cell_len, [header[0], *names]))
    first = min(whole, max([room, *map(cell_len, words)]))
    found = [{0: first}]
    for i, own in enumerate(least, start=1):
        if len(found[-1]) > 1 and _extent([*found[-1].values(), own]) > width:
            found.append({0: first})
        found[-1][i] = own
    for widths in found:
        for i in widths:
            more = max(0, cell_len(header[i]) - widths[i]) if i else 0
            if _extent(widths.values()) + more <= width:
                widths[i] += more
    return found


def _extent(widths: Iterable[int]) -> int:
    """Width of a table in characters, of its columns' without lines and margins."""
    return 1 + sum(width + 3 for width in widths)


def console() -> Console:
    """Where tables go: as wide as the terminal, 120 columns when there is none."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=120)
