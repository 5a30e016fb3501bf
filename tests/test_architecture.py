"""Who may import whom, and other rules that a reader relies on."""

import ast
from pathlib import Path

import pytest

import sfseg

ROOT = Path(sfseg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BOTTOM = {
    "types", "labels", "errors", "checks", "randomness", "atomic", "lock", "modes", "nesting",
}  # fmt: skip
# Layer -> layers of sfseg it may import, besides itself.
MAY_IMPORT = {
    "types": set(),
    "labels": {"types", "nesting"},
    "nesting": set(),
    "errors": set(),
    "checks": set(),
    "randomness": set(),
    "atomic": set(),
    "modes": set(),
    "lock": {"errors"},
    "checkpoint_files": {"atomic", "errors"},
    "ops": BOTTOM,
    "networks": BOTTOM | {"ops"},
    "optim": BOTTOM,
    "metrics": BOTTOM,
    "pseudo": BOTTOM | {"ops"},
    "data": BOTTOM | {"pseudo"},
    "methods": BOTTOM | {"ops", "networks", "metrics", "optim", "pseudo"},
    "tables": BOTTOM | {"metrics"},
    "drawing": BOTTOM,
    "plots": BOTTOM | {"drawing"},
    "callbacks": BOTTOM
    | {"ops", "pseudo", "metrics", "tables", "drawing", "plots", "optim", "checkpoint_files"},
    "loggers": BOTTOM,
}
COMMANDS = {
    "train", "evaluate", "predict", "inspection", "config", "sweep", "checkpoints", "source_model",
    "preparation", "published", "resume", "trust", "misspelt",
}  # fmt: skip


def layer(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path: Path) -> set[str]:
    """Modules that a file imports, at any depth of indentation."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
            if node.module == "sfseg":
                modules = [a.name for a in node.names if (ROOT / f"{a.name}.py").is_file()]
                found |= {f"sfseg.{name}" for name in modules}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_lower_layers(path: Path) -> None:
    own = layer(path)
    if own not in MAY_IMPORT:
        return
    inside = [name.split(".") for name in imports(path) if name.split(".")[0] == "sfseg"]
    used = {parts[1] if len(parts) > 1 else "" for parts in inside}
    allowed = MAY_IMPORT[own] | {own, ""}
    assert used <= allowed, f"{own} may not import {used - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_hydra_stays_in_the_commands(path: Path) -> None:
    uses = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not uses or layer(path) in COMMANDS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
    assert path.stem not in {"utils", "misc", "helpers", "common"}


def test_every_module_belongs_to_a_layer() -> None:
    known = set(MAY_IMPORT) | COMMANDS | {"", "runs", "quiet"}
    assert {layer(path) for path in FILES} <= known
