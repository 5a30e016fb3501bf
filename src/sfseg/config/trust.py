"""Which objects a configuration may name: those of an allow-list, and what the user trusts.

A configuration is data that somebody else may have written: a file, or the record in a checkpoint.
``_target_`` calls what it names, so everything that could execute or load a file must be out of
reach: the list below holds what a configuration needs, no more. Settings of ``hydra`` itself are
Hydra's own business; it instantiates its launchers and callbacks before any task begins.
"""

import importlib
import importlib.util
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder
from types import FunctionType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfseg.config.moved import today
from sfseg.errors import ConfigError

TARGET = "_target_"

CLASSES = (
    "sfseg.callbacks.", "sfseg.methods.", "sfseg.report.loggers", "sfseg.report.trackio_run",
    "sfseg.data.balanced_sampling",
    "sfseg.data.cache", "sfseg.data.check", "sfseg.data.eval_sets", "sfseg.data.module",
    "sfseg.data.paths",
    "sfseg.data.replacement", "sfseg.data.sampling", "sfseg.data.shots",
    "sfseg.networks.", "torch.optim.", "torch.nn", "torch.nn.modules.",
    "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.", "lightning.pytorch.plugins.", "lightning.fabric.plugins.",
    "albumentations.",
)  # fmt: skip
"""Modules and, with a dot at the end, packages whose classes may be named."""

FUNCTIONS = (
    "sfseg.networks.adapters.", "sfseg.networks.build", "sfseg.networks.heads.", "sfseg.ops.",
    "sfseg.optim", "sfseg.data.classes_file", "sfseg.data.colour", "sfseg.data.geometry",
    "sfseg.data.layouts", "sfseg.data.street_layouts", "sfseg.data.toyscapes.scenes",
    "sfseg.data.translation",
)  # fmt: skip
"""Those whose functions may be named too; functions that read files of weights may not."""

SINGLE = {"lightning.pytorch.Trainer": "lightning.pytorch.trainer.trainer"}
"""Single classes and the modules that define them."""

_ARRAYS = frozenset({"_reconstruct", "scalar"})
DATA: Mapping[str, frozenset[str]] = {
    "numpy": frozenset({"dtype", "ndarray"}),
    "numpy._core.multiarray": _ARRAYS,
    "numpy.core.multiarray": _ARRAYS,
    "argparse": frozenset({"Namespace"}),
    "collections": frozenset({"Counter", "OrderedDict", "defaultdict", "deque"}),
    "datetime": frozenset({"date", "datetime", "timedelta", "timezone"}),
    "pathlib": frozenset({"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"}),
}
"""Objects that other programs keep beside their tensors, and that only hold values."""

LATER = ("sfseg.", "lightning.")
"""Targets that are found where they are built: a command may not need what they import."""

UNDEFINED = "it is no class or function that is defined in a module that may be named"

_given: ContextVar[tuple[str, ...]] = ContextVar("trusted modules", default=())


@contextmanager
def trusting(names: Sequence[str]) -> Iterator[None]:
    """Let configurations name objects of more modules meanwhile, and weight files hold some.

    Args:
        names: packages, modules or single objects, each with all that is below it; a file of
            weights may hold those of ``DATA`` beside its tensors.

    Raises:
        ConfigError: no dotted names of Python.
    """
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise ConfigError(
                f"trust must list names of modules, such as trust=[mymethod], got {name!r}"
            )
    token = _given.set(tuple(names))
    try:
        with _in_weight_files(names):
            yield
    finally:
        _given.reset(token)


@contextmanager
def _in_weight_files(names: Sequence[str]) -> Iterator[None]:
    """Let ``torch.load`` build these objects, which it otherwise refuses.

    Raises:
        ConfigError: this version of its library has no such object.
    """
    data = [name for name in names if is_data(name)]
    if not data:
        yield
        return
    from torch.serialization import safe_globals

    found: list[Any] = []
    for name in data:
        module, _, attribute = name.rpartition(".")
        try:
            with warnings.catch_warnings(action="ignore"):  # of names that a library has moved
                found.append((getattr(importlib.import_module(module), attribute), name))
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"trust={name} cannot be found: {error}; check the name") from error
    if "numpy.dtype" in data:
        # Its instances are of classes that no file names.
        import numpy as np

        found += [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    with safe_globals(found):
        yield


def is_data(name: str) -> bool:
    """Whether trust in an object may extend to weight files that hold it: none can do a thing."""
    module, _, attribute = name.rpartition(".")
    return module in DATA and attribute in DATA[module]


def on_command_line(words: Sequence[str]) -> list[str]:
    """What ``trust=[...]`` among a command's own words lists; nothing else can extend it.

    Hydra's list of overrides would not do: a configuration file may add to it.

    Raises:
        ConfigError: it is no list of names, or is swept over.
    """
    given = [word for word in words if re.match(r"\+{0,2}trust=", word)]
    try:
        values = [parsed.value() for parsed in OverridesParser.create().parse_overrides(given)]
    except OverrideParseException as error:
        raise ConfigError(f"{' '.join(given)} cannot be read: {error}") from error
    names = values[-1] if values else []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list):
        raise ConfigError(f"trust must be one list, such as trust=[mymethod], got {given[-1]}")
    return names


def require_command_line(trust: str | Sequence[str]) -> None:
    """Refuse names of ``trust`` that a configuration file has put there.

    Raises:
        ConfigError: says where they may be given.
    """
    listed = [trust] if isinstance(trust, str) else trust
    if foreign := [name for name in listed if name not in _given.get()]:
        raise ConfigError(
            f"trust={foreign} comes from a configuration file, which must not extend what it may "
            f"do; if you trust it, add trust=[{','.join(map(str, foreign))}] to the command line"
        )


def require_allowed(config: Any, *, source: str = "", is_built: bool = False) -> None:
    """Raise unless every ``_target_`` of a configuration may be named.

    Args:
        config: a node, all that is below it included.
        source: whose configuration it is, for the message.
        is_built: it is about to be instantiated, so that each target must exist. Otherwise what
            does not exist passes, such as a callback of an older version, and neither trusted
            modules nor our own nor Lightning's are imported.

    Raises:
        ConfigError: names the key, the target and the way out.
    """
    node = config if OmegaConf.is_config(config) else OmegaConf.create(config)
    try:
        container, is_resolved = OmegaConf.to_container(node, resolve=True), True
    except OmegaConfBaseException:
        if is_built:
            raise
        # Parts of a whole configuration may lack a value and not be used; those that are will be
        # looked at again.
        container, is_resolved = OmegaConf.to_container(node, resolve=False), False
    for key, target in _targets(container):
        if not is_resolved and "${" in str(target):
            continue
        if reason := _refusal(target, is_built=is_built):
            where = f"{source}: " if source else ""
            raise ConfigError(
                f"{where}{key}={target} must not be called by a configuration: {reason}; take it "
                "out, or, if you know and trust that code, put its name or its module's on the "
                f"command line: trust=[{target}]"
            )


def _targets(container: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of all targets."""
    if isinstance(container, dict):
        for name, value in container.items():
            path = f"{key}.{name}" if key else str(name)
            if name == TARGET:
                yield path, value
            else:
                yield from _targets(value, path)
    elif isinstance(container, list):
        for number, value in enumerate(container):
            yield from _targets(value, f"{key}[{number}]")


def _refusal(target: Any, *, is_built: bool) -> str:
    """Why a target must not be called; empty if it may."""
    if not isinstance(target, str):
        return "it is no dotted name"
    trusted = _given.get()
    if target in trusted:
        return ""
    module, _, name = target.rpartition(".")
    if (now := today(target)) != target:
        return f"it is called {now} now"
    is_trusted = _is_below(module, tuple(f"{entry}." for entry in trusted), trusted)
    if not (is_trusted or target in SINGLE or _may_hold(module)):
        return "its module is not among those that may be named"
    if not is_built and (is_trusted or target.startswith(LATER)):
        # Looked at again when it is built.
        return "" if is_trusted or not _leads_through_object(module) else UNDEFINED
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        return f"it cannot be found ({_import_error(module) or error})" if is_built else ""
    # A path through an object, such as a module that another one has imported, leads anywhere.
    is_direct = module in sys.modules and not name.startswith("_")
    home = str(getattr(found, "__module__", ""))
    is_known = SINGLE.get(target) == home or _may_hold(home, isinstance(found, FunctionType))
    is_known |= _is_below(home, tuple(f"{entry}." for entry in trusted), trusted)
    if not (is_direct and is_known and isinstance(found, (type, FunctionType))):
        return UNDEFINED
    return ""


def _import_error(module: str) -> ImportError | None:
    """Why a module that is there cannot be imported, which the search for a name in it hides."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return error
    return None


def _leads_through_object(module: str) -> bool:
    """Whether a dotted path goes on where there are no modules any more; imports none of them."""
    first, *parts = module.split(".")
    spec = importlib.util.find_spec(first)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return True
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec is None


def _may_hold(module: str, is_function: bool = False) -> bool:
    entries = FUNCTIONS if is_function else (*CLASSES, *FUNCTIONS)
    return _is_below(module, entries, entries)


def _is_below(module: str, packages: Sequence[str], modules: Sequence[str]) -> bool:
    return module in modules or any(
        entry.endswith(".") and f"{module}.".startswith(entry) for entry in packages
    )
