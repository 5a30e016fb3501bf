"""JSON files beside a model, which are objects."""

import json
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError


def json_object(path: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        ConfigError: it cannot be read, or holds something else than an object.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise TypeError(f"a {type(read).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it") from error
    return read
