"""Source-free domain adaptation of segmentation models with PyTorch Lightning and Hydra."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfseg.prediction.model import Model, load
    from sfseg.prediction.result import Result

__version__ = "0.1.0"
__all__ = ["Model", "Result", "__version__", "load"]

_HOMES = {"load": "model", "Model": "model", "Result": "result"}
"""Names that are imported when they are asked for: they need torch."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sfseg.prediction.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
