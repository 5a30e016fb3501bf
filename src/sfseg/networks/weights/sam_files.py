"""Segment-anything models from a folder or from Hugging Face's hub, as transformers' classes.

Weights are read from safetensors files alone: other formats may run code when they are opened.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sfseg.errors import ConfigError
from sfseg.networks.weights.hub_files import CONFIG, model_folder, pretrained, read_json

SETTING = "pseudo_labels.sam.model"
CLASSES = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""What a model's own configuration calls it, and the class that it is loaded as. Those of SAM 2 are
published together with what follows objects through a video."""
OPEN_MODELS = ("facebook/sam-vit-huge", "facebook/sam-vit-base", "facebook/sam2.1-hiera-large")
"""Models of the hub that needed no consent when this was written, under Apache-2.0."""
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
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
    folder = model_folder(model, SETTING, OPEN_MODELS)
    kind = read_json(folder / CONFIG).get("model_type")
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
    network = pretrained(CLASSES[kind], model, folder, SETTING, use_safetensors=True)
    return SamFiles(network, kind, mean, std, _digest(folder, weights))


def _colours(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the colours that the model was trained with."""
    for name in PREPROCESSING:
        if (folder / name).is_file():
            content = read_json(folder / name)
            own = content.get("image_processor", content)
            return own.get("image_mean", IMAGENET[0]), own.get("image_std", IMAGENET[1])
    return IMAGENET


def _digest(folder: Path, weights: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in (folder / CONFIG, *weights):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
