"""CSV files of a run, which may be long, and cut off where a process was killed while it wrote."""

import csv
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Row = dict[str, str]
LONGEST = 1 << 20
"""Characters of a line; what is longer is damaged."""


@dataclass
class Columns:
    """Numbers of a file that was logged by step.

    steps, values: of each column, where it has a number, in the order of the file.
    damaged: lines that were left out.
    """

    steps: "dict[str, array[float]]" = field(default_factory=dict)
    values: "dict[str, array[float]]" = field(default_factory=dict)
    damaged: int = 0

    def add(self, name: str, step: float, value: float) -> None:
        """One more number of a column."""
        self.steps.setdefault(name, array("d")).append(step)
        self.values.setdefault(name, array("d")).append(value)

    @property
    def last_step(self) -> int | None:
        """The largest step of all; None where there is none."""
        return max((int(max(steps)) for steps in self.steps.values()), default=None)


def whole_lines(path: Path) -> Iterator[str]:
    """Lines that end; what is behind the last end was cut off, and bytes that are no text."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        while line := file.readline(LONGEST):
            if line.endswith("\n"):
                yield line


def read_columns(path: Path) -> Columns:
    """What a file with a column ``step`` holds, one line at a time.

    Raises:
        OSError: it cannot be read.
        ValueError: it has no such column.
    """
    found = Columns()
    reader = csv.reader(whole_lines(path))
    header = _next(reader, found)
    if header is None or "step" not in header:
        raise ValueError("it has no column named step")
    at = header.index("step")
    while (cells := _next(reader, found)) is not None:
        try:
            step = float(cells[at])
            if len(cells) != len(header) or not math.isfinite(step):
                raise ValueError("a line of another file")
            numbers = [(k, float(cell)) for k, cell in enumerate(cells) if cell and k != at]
        except (ValueError, LookupError):
            found.damaged += 1
            continue
        for k, number in numbers:
            found.add(header[k], step, number)
    return found


def _next(reader: Iterator[list[str]], found: Columns) -> list[str] | None:
    """The next line that the format allows."""
    while True:
        try:
            return next(reader)
        except StopIteration:
            return None
        except csv.Error:
            found.damaged += 1


def read_rows(path: Path, most: int = 100_000) -> list[Row]:
    """Whole rows of a small table as text, by the names of its columns.

    Args:
        path: of the file.
        most: rows; no table of a run has that many.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such table.
    """
    reader = csv.reader(whole_lines(path))
    try:
        header = next(reader, [])
        rows: list[Row] = []
        for cells in reader:
            if len(rows) == most:
                raise ValueError(f"it has more than {most} rows")
            if len(cells) == len(header):
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return rows


def number(row: Row, name: str) -> float:
    """A cell as a number; NaN where it is none."""
    try:
        return float(row.get(name) or "nan")
    except ValueError:
        return math.nan
