"""Rows of the results and the tables that show them, as ``docs/results/rows.yaml`` says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sfseg.errors import ConfigError
from sfseg.sharing.privacy import ELSEWHERE

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Row:
    """A run for each seed.

    name: of its file.
    table: that defines it.
    overrides: of the default configuration, ``seed`` aside.
    """

    name: str
    table: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """What a table shows of a row.

    row: its name.
    words: what the table calls it.
    paper: mIoU in percent, if a paper has one.
    """

    row: str
    words: str
    paper: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows beside each other.

    name: of the table.
    entries: its rows.
    judged_on: the domain that the scores are of.
    in_order: rows stay in their order; otherwise the largest gain is first.
    chart: whether there is a picture of gains and costs.
    """

    name: str
    entries: tuple[Entry, ...]
    judged_on: str = "target"
    in_order: bool = False
    chart: bool = False


@dataclass(frozen=True)
class Definitions:
    """Everything that the file says.

    seeds: of every row.
    every: overrides of every row.
    rows: by name.
    tables: by name.
    """

    seeds: tuple[int, ...]
    every: tuple[str, ...]
    rows: dict[str, Row]
    tables: dict[str, Table]


def read_definitions(path: Path) -> Definitions:
    """Rows and tables of a file.

    Raises:
        ConfigError: a key is unknown or missing, a name no file can have, a row defined twice or
            nowhere.
    """
    try:
        return _definitions(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}; see the words at the top of rows.yaml") from error


def _definitions(content: Any) -> Definitions:
    known(content, {"seeds", "every", "tables"}, "the file")
    seeds = tuple(int(seed) for seed in content["seeds"])
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, got {content['seeds']}")
    every = words(content.get("every", []), "every")
    rows: dict[str, Row] = {}
    tables: dict[str, Table] = {}
    for name, table in content["tables"].items():
        known(table, {"overrides", "judged_on", "in_order", "chart", "rows"}, f"table {name}")
        common = (*every, *words(table.get("overrides", []), f"overrides of table {name}"))
        entries = []
        for row, said in table.pop("rows").items():
            known(said, {"words", "paper", "set"}, f"row {row}")
            entries.append(Entry(row, said.get("words", row), said.get("paper")))
            if "set" not in said:
                continue
            if not NAME.fullmatch(row):
                raise ValueError(f"row {row!r}: a name is of a-z, 0-9, - and _")
            if row in rows:
                raise ValueError(f"row {row} is defined by {rows[row].table} and by {name}")
            rows[row] = Row(row, name, (*common, *words(said["set"], f"set of row {row}")))
            require_no_place(rows[row])
        table.pop("overrides", None)
        tables[name] = Table(name, tuple(entries), **table)
    if missing := {e.row for t in tables.values() for e in t.entries} - set(rows):
        raise ValueError(f"rows {sorted(missing)} have no `set` anywhere")
    return Definitions(seeds, every, rows, tables)


def require_no_place(row: Row) -> None:
    """Refuse settings that hold on one machine alone; a deletion, ``~key``, is none."""
    for override in row.overrides:
        if not override.startswith("~") and ELSEWHERE.search(override):
            raise ValueError(
                f"row {row.name}: {override} is a place of one machine; write ${{oc.env:<NAME>}}"
            )


def words(content: Any, where: str) -> tuple[str, ...]:
    """A list of settings; a single text would be taken for a list of its characters."""
    if not isinstance(content, list) or not all(isinstance(word, str) for word in content):
        raise ValueError(f"{where} must be a list of settings as text, got {content!r}")
    return tuple(content)


def known(content: Any, keys: set[str], where: str) -> None:
    """Refuse what is no mapping or has other keys."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a mapping, got {content!r}")
    if more := set(content) - keys:
        raise ValueError(f"{where} has {sorted(map(str, more))}; known are {sorted(keys)}")
