"""What a model says of itself: its licence, and what it was personalised with."""

from pathlib import Path
from typing import Any

import yaml

from sfseg.generation.kept import RECORD
from sfseg.storage.json_object import json_object

CARD = "README.md"
UNKNOWN = "not stated"


def licence_of(model: str) -> str:
    """The licence of a model, as far as its card says; ``not stated`` where it does not.

    A personalised model stands under that of the model it was made from.

    Args:
        model: a folder, or an id of the Hugging Face Hub, whose card is fetched if need be.

    Raises:
        ConfigError: its record is damaged.
    """
    card = card_of(model)
    licence = card.get("license")
    base = personalised(model).get("base_model")
    if licence is None and isinstance(base, str):
        return f"{licence_of(base)}, of {base}"
    if licence == "other":
        licence = card.get("license_name") or licence
    link = card.get("license_link")
    text = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence or UNKNOWN)
    return f"{text} ({link})" if link else text


def personalised(model: str) -> dict[str, Any]:
    """The record of a model that ``sfseg-generate personalise`` has written; empty for others.

    Raises:
        ConfigError: it is damaged.
    """
    path = Path(model).expanduser() / RECORD
    return json_object(path) if path.is_file() else {}


def card_of(model: str) -> dict[str, Any]:
    """The head of a model's ``README.md``; empty where none can be had."""
    folder = Path(model).expanduser()
    path = folder / CARD if folder.is_dir() else _fetched(model)
    if path is None or not path.is_file():
        return {}
    _, fence, rest = path.read_text(encoding="utf-8", errors="replace").partition("---\n")
    head, end, _ = rest.partition("\n---")
    try:
        read = yaml.safe_load(head) if fence and end else None
    except yaml.YAMLError:
        return {}
    return read if isinstance(read, dict) else {}


def _fetched(model: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, CARD))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        # Offline, without a card, or no id at all: whoever loads the model says the last.
        return None
