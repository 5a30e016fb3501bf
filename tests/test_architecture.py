"""Who may import whom, folder by folder, and other rules that a reader relies on."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
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
    "labels": {"types"},
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
    "generation": {"data", "report", "storage"},
    "export": {"networks", "ops", "storage", "metrics"},
    "sharing": {"networks", "report", "storage"},
    "conversion": {"networks"},
    "callbacks": {"data", "report", "pseudo", "ops", "storage", "metrics", "optim"},
}
MAY_IMPORT["runs"] = set(MAY_IMPORT) | set(WORDS)
MAY_IMPORT["prediction"] = (set(MAY_IMPORT) | set(WORDS)) - {"methods", "callbacks", "generation"}
MAY_IMPORT["commands"] = set(MAY_IMPORT) | set(WORDS)
HYDRA = {"commands", "runs", "config"}
"""Folders that know what a configuration is; all others get built objects."""
WINGS = {
    "data": {"toyscapes"},
    "networks": {"backbones", "heads", "heads/mask2former", "adapters", "weights"},
    "report": {"pages"},
}
PRIVATE = {
    "_frozen",  # ours: methods of networks that methods and heads call
    "_replace",  # of named tuples, whose public names begin so
    "_BatchNorm", "_NormBase",  # torch: nothing else tells every kind of batch normalisation
    "_compiled_call_impl",  # torch
    "_version",  # torch: nothing else tells that a tensor was changed in place
    "_apply",  # torch: through which every cast of a module goes
    "_is_mkldnn_bf16_supported", "_is_avx512_bf16_supported",  # likewise
    "_console_stop", "_to_model",  # W&B: nothing else shows what would be sent
    "_target_", "_get_full_key",  # Hydra and OmegaConf
}  # fmt: skip
"""What may be touched of other objects. Lightning's stays in ``storage/lightning_state.py``."""
INHERITED = {
    ("MetricsCsv", "_experiment"),
    ("MetricsFile", "_check_log_dir_exists"),
    ("MetricsFile", "_record_new_keys"),
    ("WandbRun", "_experiment"),
    ("WeightAverage", "_average_model"),
    ("WandbRun", "_id"),
    ("WandbRun", "_prefix"),
    ("WandbRun", "_wandb_init"),
}
"""Lightning's private names that a class of ours uses; ``report/test_loggers.py`` asks for them."""
ATTRIBUTES = {"getattr", "setattr", "hasattr", "delattr"}
LONGEST, METHOD = 350, 220
"""Lines of a file, and of a method's."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    """The folder at the top of the package that a file is in, or the word that it is."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, at any depth of indentation."""
    for node in ast.walk(tree(path)):
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
    for node in ast.walk(tree(path)):
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


def touched(path: Path) -> Iterator[str]:
    """Private names of objects that are neither ``self`` nor ``cls``, however they are reached."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ATTRIBUTES:
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("path", CODE, ids=ids)
def test_nothing_touches_what_is_private_to_others(path: Path) -> None:
    found = {name for name in touched(path) if is_private(name)} - PRIVATE
    assert not found, "Lightning's state belongs into storage/lightning_state.py"


@cache
def own_names(kind: type) -> set[str]:
    """Private names that a class gives to itself."""
    names = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names |= {node.attr} if node.value.id == "self" else set()
    return {name for name in names if is_private(name)}


def lightning_names(kind: type) -> set[str]:
    """Those of the classes of Lightning that it derives from."""
    bases = [b for b in kind.__mro__ if b.__module__.split(".")[0] == "lightning"]
    return {name for base in bases for name in own_names(base)}


@pytest.mark.parametrize("path", CODE, ids=ids)
def test_nothing_shares_a_private_name_with_lightning(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(("sfseg", *parts)))
    for kind in vars(module).values():
        if inspect.isclass(kind) and kind.__module__ == module.__name__:
            shared = {(kind.__name__, name) for name in own_names(kind) & lightning_names(kind)}
            assert shared <= INHERITED


def test_private_names_of_lightning_are_seen() -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    assert "_latest_update_step" in lightning_names(EMAWeightAveraging)
    assert "_console_stop" in set(touched(ROOT / "report" / "loggers.py"))
