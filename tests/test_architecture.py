"""Who may import whom, folder by folder, and other rules that a reader relies on."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sfseg

ROOT = Path(sfseg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
CODE = [path for path in FILES if path.name != "__init__.py"]

# Words that every layer speaks -> words they are made of.
WORDS = {
    "types": set(),
    "errors": set(),
    "checks": set(),
    "modes": set(),
    "nesting": set(),
    "randomness": set(),
    "labels": {"types", "nesting"},
    "metrics": {"types", "labels"},
    "optim": {"errors"},
}
EVERYWHERE = set(WORDS) - {"metrics", "optim"}
# Folder -> what it may import besides itself and the words above.
MAY_IMPORT = {
    "storage": set(),
    "ops": set(),
    "config": set(),
    "pseudo": {"storage"},
    "report": {"storage", "metrics"},
    "networks": {"ops"},
    "data": {"pseudo", "storage"},
    "methods": {"networks", "ops", "pseudo", "storage", "metrics", "optim"},
    "callbacks": {"data", "report", "pseudo", "ops", "storage", "metrics", "optim"},
}
MAY_IMPORT["runs"] = set(MAY_IMPORT) | set(WORDS)
MAY_IMPORT["commands"] = set(MAY_IMPORT) | set(WORDS)
HYDRA = {"commands", "runs", "config"}
"""Folders that know what a configuration is; all others get built objects."""
WINGS = {
    "data": {"toyscapes"},
    "networks": {"backbones", "heads", "adapters", "weights"},
}
LONGEST, METHOD = 350, 220
"""Lines of a file, and of a method's."""


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    """The folder at the top of the package that a file is in, or the word that it is."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, at any depth of indentation."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "sfseg":
                yield from (f"sfseg.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def rooms_of(path: Path) -> set[str]:
    """Rooms of the package that a file imports from."""
    parts = (name.split(".") for name in imports(path))
    return {p[1] for p in parts if p[0] == "sfseg" and p[1:]} - {"__version__", room(path)}


@pytest.mark.parametrize("path", CODE, ids=ids)
def test_imports_only_what_its_folder_may(path: Path) -> None:
    own = room(path)
    allowed = MAY_IMPORT[own] | EVERYWHERE if own in MAY_IMPORT else WORDS[own]
    assert rooms_of(path) <= allowed, f"{own} may not import {rooms_of(path) - allowed}"


@pytest.mark.parametrize("path", CODE, ids=ids)
def test_hydra_stays_above_the_library(path: Path) -> None:
    uses = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not uses or room(path) in HYDRA


@pytest.mark.parametrize("path", CODE, ids=ids)
def test_files_stay_readable(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (METHOD if room(path) == "methods" else LONGEST)
    assert path.stem not in {"utils", "misc", "helpers", "common"}


def assigned(path: Path) -> Iterator[ast.expr]:
    """What a file assigns to, also by ``setattr`` with a name that is written out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from (part for part in ast.walk(target) if isinstance(part, ast.expr))
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            yield node.target
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ("setattr", "__setattr__"):
                yield from node.args


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_object_is_given_another_class(path: Path) -> None:
    for target in assigned(path):
        named = target.attr if isinstance(target, ast.Attribute) else None
        written = target.value if isinstance(target, ast.Constant) else None
        assert "__class__" not in (named, written), f"line {target.lineno}: build an instance"


def test_no_arrow_runs_back_up() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # a cycle would raise
    arrows: dict[str, set[str]] = {}
    for path in CODE:
        arrows.setdefault(room(path), set()).update(rooms_of(path))
    TopologicalSorter(arrows).prepare()


def test_every_file_has_a_room() -> None:
    top = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert top == set(WORDS)
    folders = {path.parent.relative_to(ROOT) for path in CODE} - {Path()}
    wings = {Path(folder) / wing for folder, names in WINGS.items() for wing in names}
    assert folders == {Path(folder) for folder in MAY_IMPORT} | wings
