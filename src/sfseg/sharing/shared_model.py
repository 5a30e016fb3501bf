"""The folder that a shared model is: weights, a record of the run, a card. None of it is a program.

``model.safetensors`` holds the network's own tensors under its own names; ``sfseg.json`` what a
checkpoint says of its run, with which the network is built again.
"""

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.networks.weights.checkpoint import load_tensors
from sfseg.storage.atomic import write_folder

WEIGHTS, RECORD, CARD = "model.safetensors", "sfseg.json", "README.md"
FILES = (WEIGHTS, RECORD, CARD)
FORMAT = 1
"""Version of the record; readers refuse what is newer than they are."""
LARGEST = 8 << 20
"""Bytes that a record may have; of a run it has thirty thousand."""
OTHERS = ("config.json", "pytorch_model.bin", "*.pth", "*.pt", "*.bin")
"""Files of other programs' models."""


def shared_folder(place: str | PathLike[str]) -> Path | None:
    """The folder of a shared model that a path leads to: itself, or that of its weights."""
    path = Path(place)
    try:
        folder = path.parent if path.name == WEIGHTS and path.is_file() else path
        return folder if all((folder / name).is_file() for name in (WEIGHTS, RECORD)) else None
    except (OSError, ValueError):  # no name of a file; who opens it says so
        return None


def read_record(folder: Path, source: str) -> dict[str, Any]:
    """What a shared model says of itself; it may be a stranger's.

    Args:
        folder: of the model.
        source: what led to it, for messages.

    Raises:
        ConfigError: too large, no record, or of a later version.
    """
    path = folder / RECORD
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        record = json.loads(path.read_bytes())
        form = record["format"]
        if not isinstance(form, int) or form < 1:
            raise ValueError(f"its format is {form!r}")
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ConfigError(
            f"{source}: {RECORD} is damaged, or no record of sfseg ({type(error).__name__}: "
            f"{error}); download or push it again"
        ) from error
    if form > FORMAT:
        raise ConfigError(
            f"{source} is of format {form}, this sfseg knows {FORMAT} (it was shared by version "
            f"{record.get('version')}); update sfseg"
        )
    return dict(record)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights under the network's own names.

    Raises:
        ConfigError: the file is damaged.
    """
    return load_tensors(folder / WEIGHTS)


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place where a shared model must not be written.

    Args:
        folder: where it would be.
        overwrite: it may replace another one.

    Raises:
        ConfigError: something is there that would be lost.
    """
    from sfseg.storage.atomic import NAMELESS, file_in_the_way

    if folder.name in NAMELESS:
        raise ConfigError(f"to={folder} must be a folder with a name of its own, as to=shared/rain")
    if (file := file_in_the_way(folder)) is not None:
        raise ConfigError(f"to={folder} cannot be: {file} is a file; choose another folder")
    if not folder.is_dir() or not (found := sorted(path.name for path in folder.iterdir())):
        return
    if foreign := [name for name in found if name not in FILES]:
        raise ConfigError(
            f"to={folder} holds other files, such as {foreign[0]}, and stays as it is; choose a "
            "new folder"
        )
    if not overwrite:
        raise ConfigError(
            f"to={folder} holds a shared model; choose another folder or set overwrite=true"
        )


def write_shared(
    folder: Path,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    card: str,
    check: Callable[[Path], None],
) -> None:
    """Write a folder that appears whole or not at all; see :func:`require_free`.

    Args:
        folder: its place.
        tensors: of the network, under its own names.
        record: of JSON types.
        card: in markdown, with its front matter.
        check: looks at the written folder before it gets its name, and raises.

    Raises:
        OSError: the disk takes nothing; there is no folder then.
    """

    def write(partial: Path) -> None:
        # Each by itself: tied weights share memory, which the format has no words for.
        alone = {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
        }
        # As bytes: `save_file` makes a file that its owner alone may read.
        (partial / WEIGHTS).write_bytes(save(alone, metadata={"format": "pt"}))
        text = json.dumps({"format": FORMAT, **record}, indent=1)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
        (partial / CARD).write_text(card, encoding="utf-8")
        check(partial)

    write_folder(folder, write, replace=True)
