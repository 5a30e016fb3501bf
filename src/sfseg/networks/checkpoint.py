"""Reading weights from files without running anything that hides in them."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfseg.errors import ConfigError

_WRAPPERS = ("state_dict", "model")
_SHOWN = 5


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors file or of a file written by ``torch.save``.

    The latter may hold them directly or below ``state_dict`` or ``model``. Only tensors and
    plain containers are decoded: a file cannot execute code.

    Raises:
        ConfigError: the file is missing, damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"weights must be a file, got {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as cause:
        raise ConfigError(_unsafe_or_damaged(path)) from cause
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as cause:
        raise ConfigError(
            f"weights must be a readable file, got {path}, which is damaged or incomplete "
            f"({_first_line(cause)}); copy or download it again"
        ) from cause
    return _named_tensors(content, path)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Fills every parameter and buffer of a module, or changes nothing.

    Args:
        module: receives the tensors.
        tensors: one per key of the module's ``state_dict``.
        source: where they come from, for the message.

    Raises:
        ConfigError: names the keys that are missing, unexpected or of another shape.
    """
    require_same_keys(module.state_dict(), tensors, source=source)
    module.load_state_dict(tensors)


def require_same_keys(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, source: str
) -> None:
    """Raise unless ``tensors`` has just the keys and shapes of ``expected``.

    Raises:
        ConfigError: names the keys that are missing, unexpected or of another shape.
    """
    reshaped = {
        key: f"{key} {tuple(tensors[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in tensors and tensors[key].shape != tensor.shape
    }
    findings = [
        _listing("missing", [key for key in expected if key not in tensors]),
        _listing("unexpected", [key for key in tensors if key not in expected]),
        _listing("of another shape", list(reshaped.values())),
        *_class_counts(expected, tensors, list(reshaped)),
    ]
    if any(findings):
        raise ConfigError(
            f"weights must fit the model, got {source} with "
            + "; ".join(finding for finding in findings if finding)
            + "; choose the model they were saved from"
        )


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise ConfigError(
            f"weights must be named tensors, got {path} with a {type(content).__name__} of other "
            f"things; save module.state_dict()"
        )
    return {str(key): value for key, value in content.items()}


def _unsafe_or_damaged(path: Path) -> str:
    # torch.load reports a damaged pickle and a refused one with the same exception.
    reason = (
        "which holds objects that would have to be executed to be read"
        if is_zipfile(path)
        else "which is damaged or no weight file"
    )
    return (
        f"weights must hold tensors only, got {path}, {reason}; "
        "nothing was executed; save module.state_dict() or use .safetensors"
    )


def _class_counts(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], reshaped: list[str]
) -> list[str]:
    """What a mismatch means if it is the number of outputs of the last layer that differs."""
    for key in reshaped:
        theirs, ours = tensors[key].shape, expected[key].shape
        if "classifier" in key and theirs[1:] == ours[1:]:
            return [f"checkpoint has {theirs[0]} classes, the model {ours[0]}"]
    return []


def _listing(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} keys {what}: {', '.join(keys[:_SHOWN])}{more}"


def _first_line(cause: Exception) -> str:
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
