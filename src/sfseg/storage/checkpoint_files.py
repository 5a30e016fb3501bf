"""Checkpoint files as a trainer writes them: never replaced by worse ones.

See :mod:`sfseg.storage.manifest` for how they are known.
"""

import hashlib
import io
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from sfseg.errors import NumericError, OutputError
from sfseg.storage.atomic import sync
from sfseg.storage.manifest import (
    PREVIOUS,
    continued_manifest,
    digest,
    load_plain,
    write_manifest,
)


class CheckpointFiles(CheckpointIO):
    """How a trainer writes and reads checkpoints.

    Writing needs no other folder and no second copy in memory. What was at the path becomes
    ``previous.ckpt`` once the new file is on the disk and has been read back.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint of tensors and plain containers.

        Raises:
            NumericError: a weight is NaN or infinite; nothing is written.
            OutputError: the folder or the disk takes nothing; what was there is still there.
        """
        require_finite(checkpoint.get("state_dict", {}))
        path = Path(path)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        with _output_errors(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("xb") as file:
                    hashing = _Hashing(file)
                    torch.save(checkpoint, cast(BinaryIO, hashing))
                    file.flush()
                    os.fsync(file.fileno())
                if digest(partial) != hashing.hexdigest():
                    raise OSError(f"{partial} does not read as it was written")
                manifest = continued_manifest(path.parent)
                manifest.pop(hashing.hexdigest(), None)
                manifest[hashing.hexdigest()] = int(checkpoint.get("global_step", 0))
                write_manifest(path.parent, manifest)
                if path.exists():
                    path.replace(path.with_name(PREVIOUS))
                partial.replace(path)
                sync(path.parent)
            finally:
                with suppress(OSError):
                    partial.unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain containers; nothing else is ever executed or built."""
        return load_plain(path, map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Part of Lightning's interface; the folder here keeps its number of files itself."""
        Path(path).unlink(missing_ok=True)


def require_finite(tensors: Mapping[str, Any]) -> None:
    """Refuse weights that no training could go on from.

    Raises:
        NumericError: names those that are NaN or infinite.
    """
    wrong = [
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and not bool(torch.isfinite(tensor).all())
    ]
    if wrong:
        raise NumericError(
            f"{len(wrong)} tensors are NaN or infinite, {wrong[0]} first; no checkpoint is "
            "written, the last one stays. Lower the learning rate or use trainer.precision=32-true"
        )


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is written from its beginning to its end."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._hash = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._hash.update(content)
        return self._file.write(content)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its archive writer.
        raise OutputError(
            f"the checkpoint {path} cannot be written: {error}; what was there is still there. "
            "Make room, then go on with resume=auto"
        ) from error
