"""Settings of a configuration file with their comments, as a reader of the file sees them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class Setting:
    """One line of a configuration.

    name: with those that it is in, separated by dots.
    value: as it is written, in one line.
    comment: beside it, or above it.
    """

    name: str
    value: str
    comment: str


def header(path: Path) -> str:
    """What a file says of itself in its first lines."""
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def settings(path: Path) -> list[Setting]:
    """Those of one file, without its list of defaults, in its order."""
    lines = path.read_text().splitlines()
    root = yaml.compose("\n".join(lines))
    if not isinstance(root, yaml.MappingNode):
        return []
    first = len(header(path).splitlines())
    return [s for s in _read(root, "", lines, first) if s.name.partition(".")[0] != "defaults"]


def inherited(group: str, option: str, *, without: tuple[str, ...] = ()) -> list[Setting]:
    """Those of an option and of the files of its group that it builds on; the latest value wins.

    Args:
        group: folder of the configuration.
        option: file in it.
        without: files whose settings are left out.
    """
    found: dict[str, Setting] = {}
    for name in lineage(group, option):
        for setting in [] if name in without else settings(CONF / group / f"{name}.yaml"):
            before = found.pop(setting.name, setting)
            comment = setting.comment or before.comment
            found[setting.name] = Setting(setting.name, setting.value, comment)
    return list(found.values())


def lineage(group: str, option: str) -> list[str]:
    """The files of a group that an option is made of, itself the last."""
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) or {}
    parents = [p for p in content.get("defaults", []) if isinstance(p, str) and p != "_self_"]
    return [*(name for parent in parents for name in lineage(group, parent)), option]


def options(group: str) -> list[str]:
    """Names of the files of a group that can be chosen."""
    stems = (path.stem for path in sorted((CONF / group).glob("*.yaml")))
    return [stem for stem in stems if not stem.startswith("_")]


def _read(node: yaml.MappingNode, before: str, lines: list[str], first: int) -> Iterator[Setting]:
    for key, value in node.value:
        name = before + key.value
        comment = _comment(lines, key.start_mark.line, key.start_mark.column, first)
        inside = isinstance(value, yaml.MappingNode) and not value.flow_style and value.value
        if inside:
            if comment:
                yield Setting(name, "", comment)
            yield from _read(value, f"{name}.", lines, first)
        else:
            yield Setting(name, _written(value, lines), comment)


def _written(value: yaml.Node, lines: list[str]) -> str:
    """A value as the file has it, in one line and without comments."""
    start, end = value.start_mark, value.end_mark
    text = "\n".join(lines)[start.index : end.index]
    if isinstance(value, yaml.ScalarNode) and value.style in (None, '"', "'"):
        return text
    return " ".join(re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()).strip()


def _comment(lines: list[str], line: int, column: int, first: int) -> str:
    """That beside a key, which may go on below it, or else that above it."""
    beside = re.search(r"\s#\s?(.*)$", lines[line])
    if beside is not None:
        said, place = [beside[1]], beside.start() + 1
        for below in lines[line + 1 :]:
            if below.strip().startswith("#") and below.index("#") == place:
                said.append(below.strip().removeprefix("#").strip())
            else:
                break
        return " ".join(said)
    above: list[str] = []
    while line > first and lines[line - 1].strip().startswith("#"):
        line -= 1
        if lines[line].index("#") != column:
            break
        above.insert(0, lines[line].strip().removeprefix("#").strip())
    return " ".join(above)
