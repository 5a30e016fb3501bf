"""JSON files that hold an object."""

import json
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError


def json_object(path: Path, way_out: str = "restore it") -> dict[str, Any]:
    """What a file holds.

    Args:
        path: of the file.
        way_out: what to do where it is damaged.

    Raises:
        ConfigError: it cannot be read, or holds something else than an object.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise TypeError(f"a {type(read).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); {way_out}") from error
    return read
