"""A network as a graph of operations on images of any size (torch.export)."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from traceback import walk_tb
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from sfseg.errors import ConfigError
from sfseg.export.deployed import LEAST_SIDE, Deployed

EXAMPLE = (2, 3, 256, 480)
"""Two images: of one, the batch would become a constant. So would the number of windows."""


def traced(model: Deployed) -> ExportedProgram:
    """The graph of a network, whose batch, height and width are symbols.

    A network that looks at a size in Python is traced along the branch of the example, and nothing
    says so: what is made of the graph must be compared with the network.

    Args:
        model: in eval mode, in single precision, on the CPU.

    Raises:
        ConfigError: it cannot be traced; names the layer.
    """
    if not hasattr(torch.compiler, "is_exporting"):
        raise ConfigError(f"sfseg-export needs torch 2.7 or newer, got {torch.__version__}")
    example = model.taken(torch.zeros(EXAMPLE, dtype=torch.uint8))
    side = Dim.DYNAMIC(min=LEAST_SIDE)
    sizes: dict[int, Any] = {0: Dim.DYNAMIC, 2: side, 3: side}
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(model, (example,), dynamic_shapes=(sizes,), strict=False)
    # Whatever a network's code or one of torch's passes over it raises.
    except Exception as error:
        raise ConfigError(
            f"the network cannot be exported: torch.export stops in {layer_of(error, model)} "
            f"({reason(error)}); choose another head or backbone"
        ) from error


def layer_of(error: BaseException, model: nn.Module) -> str:
    """The innermost layer that was running when an error was raised, by its name."""
    # torch.export runs stand-ins of modules, which share their attributes and their class's name.
    names = {id(vars(part)): name for name, part in model.named_modules()}
    cause: BaseException | None = error
    running: list[nn.Module] = []
    # torch raises errors of its own about those of layers.
    while cause is not None and not running:
        running = [
            part
            for frame, _ in walk_tb(cause.__traceback__)
            if isinstance(part := frame.f_locals.get("self"), nn.Module)
            and names.get(id(vars(part)))
        ]
        cause = cause.__cause__ or cause.__context__
    if not running:
        return "a layer that it does not name"
    name = names[id(vars(running[-1]))].removeprefix("network.")
    return f"{name} ({type(running[-1]).__name__})"


def reason(error: BaseException) -> str:
    """An error's kind and its first line, with the first point of a list below it."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    said = [*lines[:1], *[line for line in lines[1:] if line.startswith("- ")][:1]]
    return f"{type(error).__name__}: {' '.join(said)}" if said else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Meanwhile, torch's exporters log errors alone and warn of nothing: files are compared."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
