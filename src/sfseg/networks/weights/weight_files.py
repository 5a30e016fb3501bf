"""What a file of weights must be before it is used: here, as it was written, and finite."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from sfseg.errors import ConfigError


def local_file(path: str | Path, argument: str) -> Path:
    """The path of a file with weights, which must be on this machine.

    Args:
        path: as given.
        argument: what gave it, for messages.

    Raises:
        ConfigError: an address, which is not loaded from, or no such file.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ConfigError(
            f"{argument} must be a file on this machine, got {path}; download it yourself, compare "
            "its checksum with the one its authors give, and pass the file"
        )
    path = Path(path)
    try:
        is_there = path.is_file()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{argument} must be a file, got {str(path)!r}: {error}") from error
    if not is_there:
        raise ConfigError(f"{argument}={path} does not exist, or is no file; check the path")
    return path


def require_stored(path: Path) -> None:
    """Refuse an archive that is larger than it looks; other files pass.

    Raises:
        ValueError: its parts are compressed or overlap, which ``torch.save`` never does.
    """
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        parts = archive.infolist()
        is_usual = all(part.compress_type == ZIP_STORED for part in parts)
        if not is_usual or sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are compressed or overlap, which torch.save never does")


def holds_program(path: Path) -> bool:
    """Whether it is an archive of TorchScript, in which weights are part of a program."""
    try:
        with ZipFile(path) as archive:
            return any(re.match(r"[^/]+/code/", name) for name in archive.namelist())
    except (BadZipFile, OSError):
        return False


def require_intact(path: Path) -> None:
    """Compare a file of ``torch.save`` with the checksums in it, which torch does not look at.

    Files of its older format, and of others, hold none and pass.

    Raises:
        ValueError: a part is not as it was written, or would not be stored like this.
    """
    require_stored(path)
    if is_zipfile(path):
        with ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} does not fit")


def require_usable(tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse tensors that no network could compute with.

    Raises:
        ConfigError: names those that are not finite, sparse, quantised or complex.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise ConfigError(
                f"weights must be dense real numbers, got {source} with {name} of {tensor.dtype}, "
                f"{tensor.layout}; save the model that was trained"
            )
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if broken:
        raise ConfigError(
            f"weights must be finite, got {source} with NaN or infinity in {len(broken)} of "
            f"{len(tensors)} tensors: {patterns(broken)}; take an earlier checkpoint, from before "
            "the training diverged"
        )


def patterns(keys: Sequence[str]) -> str:
    """All keys in few words: those that differ in their numbers become one, with its count."""
    alike: dict[str, list[str]] = {}
    for key in keys:
        alike.setdefault(re.sub(r"\d+", "#", key), []).append(key)
    return ", ".join(
        f"{pattern} ({len(same)})" if len(same) > 1 else same[0] for pattern, same in alike.items()
    )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return True
    # Types of one byte know no isfinite.
    values = tensor.float() if tensor.is_floating_point() and tensor.itemsize < 2 else tensor
    return bool(torch.isfinite(values).all())
