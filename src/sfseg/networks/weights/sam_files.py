"""Segment-anything models from a folder or from Hugging Face's hub, as transformers' classes.

Weights are read from safetensors files alone: other formats may run code when they are opened.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sfseg.errors import ConfigError, hub_reason

SETTING = "pseudo_labels.sam.model"
CLASSES = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""What a model's own configuration calls it, and the class that it is loaded as. Those of SAM 2 are
published together with what follows objects through a video."""
OPEN_MODELS = ("facebook/sam-vit-huge", "facebook/sam-vit-base", "facebook/sam2.1-hiera-large")
"""Models of the hub that needed no consent when this was written, under Apache-2.0."""
CONFIG = "config.json"
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
FILES = ["*.json", "*.safetensors"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class SamFiles(NamedTuple):
    """A model as it lies in its folder.

    network: of one of transformers' classes, in float32.
    kind: one of the keys of ``CLASSES``.
    mean, std: of the colours red, green and blue, by which images are normalised, in [0, 1].
    digest: of the files.
    """

    network: Any
    kind: str
    mean: Sequence[float]
    std: Sequence[float]
    digest: str


def load_sam(model: str) -> SamFiles:
    """A segment-anything model.

    Args:
        model: a folder that ``save_pretrained`` has written, or ``owner/name`` of the hub.

    Raises:
        ConfigError: transformers is missing; there is no such model, or one that asks for consent
            first; it is of another architecture, has weights that are no safetensors or are
            damaged, or lacks some.
    """
    if find_spec("transformers") is None:
        raise ConfigError(
            "pseudo_labels.refine=sam needs transformers: pip install 'sfseg[clouds]'; or set "
            "pseudo_labels.refine=none"
        )
    folder = _find(model)
    kind = _json(folder / CONFIG).get("model_type")
    if kind not in CLASSES:
        raise ConfigError(
            f"{SETTING}={model} is of the architecture {kind!r}, but must be one of "
            f"{', '.join(CLASSES)}; take {' or '.join(OPEN_MODELS)}"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"{SETTING}={model} has no weights in safetensors, and only those are read; convert "
            "them elsewhere, where you trust them: model.save_pretrained(<folder>)"
        )
    mean, std = _colours(folder)
    return SamFiles(_loaded(model, folder, kind), kind, mean, std, _digest(folder, weights))


def _find(model: str) -> Path:
    """The folder of a model, which is downloaded first if it is one of the hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ConfigError(
                f"{SETTING}={model} has no {CONFIG}; name a folder that save_pretrained has written"
            )
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ConfigError(
            f"{SETTING}={model} is neither a folder nor owner/name of huggingface.co; a model of "
            f"the hub is, for example, {OPEN_MODELS[0]}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    # Of a network, any of its errors.
    except Exception as error:
        raise ConfigError(_reason(model, error)) from error


def _reason(model: str, error: Exception) -> str:
    reason = hub_reason(error)
    local = f"or give a folder: {SETTING}=<folder> takes what save_pretrained has written"
    if reason == "gated":
        return (
            f"{SETTING}={model} is gated: its owner asks for consent. Agree on "
            f"huggingface.co/{model} and call `hf auth login`; or take one that asks for none, "
            f"such as {OPEN_MODELS[0]}; {local}"
        )
    if reason == "missing":
        return (
            f"{SETTING}={model} is neither a folder here nor on huggingface.co, or private: names "
            f"are case-sensitive; take {' or '.join(OPEN_MODELS)}, {local}"
        )
    if reason == "offline":
        return (
            f"{SETTING}={model} is no folder here, not in the cache, and huggingface.co cannot be "
            f"reached; go online once, {local}"
        )
    return f"{SETTING}={model} cannot be loaded: {_first_line(error)}; take another, {local}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _loaded(model: str, folder: Path, kind: str) -> Any:
    """The network with its weights, each of which must be there."""
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    shown = logging.get_verbosity()
    # It warns of what is checked below, and of the class that SAM 2 is published as.
    logging.set_verbosity_error()
    try:
        network, found = getattr(transformers, CLASSES[kind]).from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    # Of a damaged folder, any of its readers' errors.
    except Exception as error:
        raise ConfigError(
            f"{SETTING}={model} cannot be loaded: {_first_line(error)}; restore its files, update "
            "transformers, or take another"
        ) from error
    finally:
        logging.set_verbosity(shown)
    lost = sorted([*map(str, found["missing_keys"]), *map(str, found["mismatched_keys"])])
    if lost:
        raise ConfigError(
            f"{SETTING}={model} lacks {len(lost)} weights of a {CLASSES[kind]}, such as {lost[0]}, "
            "which would be random; restore its files, or take another"
        )
    return network


def _colours(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the colours that the model was trained with."""
    for name in PREPROCESSING:
        if (folder / name).is_file():
            content = _json(folder / name)
            own = content.get("image_processor", content)
            return own.get("image_mean", IMAGENET[0]), own.get("image_std", IMAGENET[1])
    return IMAGENET


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it") from error
    return content if isinstance(content, dict) else {}


def _digest(folder: Path, weights: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in (folder / CONFIG, *weights):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
