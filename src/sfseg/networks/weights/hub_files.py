"""Models of transformers: their folder, here or from Hugging Face's hub, and their network."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError, hub_reason

CONFIG = "config.json"
FILES = ("*.json", "*.safetensors")


def model_folder(
    model: str, setting: str, examples: Sequence[str], *, files: Sequence[str] = FILES
) -> Path:
    """The folder of a model, which is downloaded first if it is one of the hub.

    Args:
        model: a folder that ``save_pretrained`` has written, or ``owner/name`` of the hub.
        setting: what named it, for messages.
        examples: models of the hub that need no consent.
        files: patterns of what is downloaded.

    Raises:
        ConfigError: there is no such model, or one that asks for consent first.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ConfigError(
                f"{setting}={model} has no {CONFIG}; name a folder that save_pretrained has written"
            )
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ConfigError(
            f"{setting}={model} is neither a folder nor owner/name of huggingface.co; a model of "
            f"the hub is, for example, {examples[0]}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(files)))
    # Of a network, any of its errors.
    except Exception as error:
        raise ConfigError(_reason(model, error, setting, examples)) from error


def _reason(model: str, error: Exception, setting: str, examples: Sequence[str]) -> str:
    reason = hub_reason(error)
    local = f"or give a folder: {setting}=<folder> takes what save_pretrained has written"
    if reason == "gated":
        return (
            f"{setting}={model} is gated: its owner asks for consent. Agree on "
            f"huggingface.co/{model} and call `hf auth login`; or take one that asks for none, "
            f"such as {examples[0]}; {local}"
        )
    if reason == "missing":
        return (
            f"{setting}={model} is neither a folder here nor on huggingface.co, or private: names "
            f"are case-sensitive; take {' or '.join(examples[:2])}, {local}"
        )
    if reason == "offline":
        return (
            f"{setting}={model} is no folder here, not in the cache, and huggingface.co cannot be "
            f"reached; go online once, {local}"
        )
    return f"{setting}={model} cannot be loaded: {first_line(error)}; take another, {local}"


def pretrained(
    name: str, model: str, folder: Path, setting: str, *, optional: str = r"^$", **options: Any
) -> Any:
    """A network of transformers with its weights, in float32, each of which must be there.

    Args:
        name: of its class.
        model: as given, for messages.
        folder: what it is loaded from.
        setting: what named it.
        optional: pattern of weights that may be missing.
        options: further ones of ``from_pretrained``.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing or of another shape.
    """
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    shown = logging.get_verbosity()
    # It warns of what is checked below, and of classes that a model is published as.
    logging.set_verbosity_error()
    try:
        network, found = getattr(transformers, name).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, **options
        )
    # Of a damaged folder, any of its readers' errors.
    except Exception as error:
        raise ConfigError(
            f"{setting}={model} cannot be loaded: {first_line(error)}; restore its files, update "
            "transformers, or take another"
        ) from error
    finally:
        logging.set_verbosity(shown)
    absent = [*map(str, found["missing_keys"]), *map(str, found["mismatched_keys"])]
    lost = sorted(key for key in absent if not re.search(optional, key))
    if lost:
        raise ConfigError(
            f"{setting}={model} lacks {len(lost)} weights of a {name}, such as {lost[0]}, "
            "which would be random; restore its files, or take another"
        )
    return network


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; empty where that holds something else.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it") from error
    return content if isinstance(content, dict) else {}


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
