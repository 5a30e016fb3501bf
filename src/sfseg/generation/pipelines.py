"""Diffusion models from a folder or from Hugging Face's hub, as diffusers' pipelines.

Weights are read from safetensors files alone: other formats may run code when they are opened.
"""

import logging
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfseg.errors import ConfigError, hub_reason
from sfseg.storage.json_object import json_object

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers", "peft")
OPEN_MODELS = ("CompVis/stable-diffusion-v1-4", "stable-diffusion-v1-5/stable-diffusion-v1-5")
"""Models of the hub that need no consent when this was written; both under CreativeML OpenRAIL-M,
whose conditions hold for whoever uses them or passes them on."""


def require_libraries() -> None:
    """Refuse to begin where a library of the extra ``generate`` is missing.

    Raises:
        ConfigError: says how to install them.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"sfseg-generate needs {', '.join(missing)}: pip install 'sfseg[generate]'"
        )


def load_pipeline(
    model: str,
    *,
    safety_checker: bool = False,
    dtype: "torch.dtype | None" = None,
    device: "torch.device | str" = "cpu",
) -> Any:
    """A pipeline of the class that the model's own index names, such as Stable Diffusion's.

    Args:
        model: a folder that ``save_pretrained`` has written, or ``owner/name`` of the hub.
        safety_checker: keep the model's own; it returns black pictures for those that it refuses.
        dtype: of all weights; None for float32.
        device: where the parts are put.

    Raises:
        ConfigError: no such model, one that asks for consent first, weights that are no
            safetensors or damaged, code beside them, or a part that was saved while an adapter was
            in it.
    """
    require_libraries()
    import torch
    from diffusers import DiffusionPipeline

    folder = find_model(model)
    index = json_object(folder / INDEX)
    require_no_code(folder, index)
    for part in index.keys() - ({"safety_checker"} if not safety_checker else set()):
        require_safetensors(folder / part)
        require_no_adapter(folder / part)
    arguments: dict[str, Any] = {"dtype": dtype or torch.float32}
    if not safety_checker and "safety_checker" in index:
        arguments |= {"safety_checker": None, "requires_safety_checker": False}
    quiet_libraries()
    pipeline = _attempt(
        model, lambda: DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **arguments)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def find_model(model: str) -> Path:
    """The folder of a model, which is downloaded first if it is one of the hub.

    Raises:
        ConfigError: as in :func:`load_pipeline`.
    """
    from diffusers import DiffusionPipeline

    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise ConfigError(
                f"model={model} has no {INDEX}, so it is no folder of a pipeline; name the folder "
                "that holds unet/, vae/, text_encoder/ and tokenizer/"
            )
        return folder
    if folder.is_file():
        raise ConfigError(
            f"model={model} is a single file; write it as a folder once: "
            "StableDiffusionPipeline.from_single_file(<file>).save_pretrained(<folder>)"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ConfigError(
            f"model={model} is neither a folder nor owner/name of huggingface.co; a model of the "
            f"hub is, for example, {OPEN_MODELS[0]}"
        )
    return Path(_attempt(model, lambda: DiffusionPipeline.download(model, use_safetensors=True)))


def require_no_code(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a model with classes of its own.

    Raises:
        ConfigError: names the part and the class.
    """
    for part, value in index.items():
        if not isinstance(value, list) or len(value) != 2:
            continue
        library, name = value
        # A pipeline of diffusers' own is named by its class alone.
        if part == "_class_name" or _has_code(folder, part, library):
            raise ConfigError(
                f"{folder / INDEX} has {part} of class {name} in {library}.py, which comes with "
                "the model: sfseg never executes code of a model; take one that consists of "
                "classes of diffusers and transformers"
            )


def _has_code(folder: Path, part: str, library: object) -> bool:
    return any((place / f"{library}.py").is_file() for place in (folder, folder / part))


def require_safetensors(folder: Path) -> None:
    """Refuse a part of a model that has weights in pickles alone.

    Raises:
        ConfigError: names one, and how it becomes safetensors.
    """
    if any(folder.glob("*.safetensors")):
        return
    for file in sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")]):
        raise ConfigError(
            f"{file} is a pickle, which may run code when it is opened, and only safetensors are "
            "read; where you trust it, convert it elsewhere: "
            "pipeline.save_pretrained(<folder>, safe_serialization=True)"
        )


def require_no_adapter(folder: Path) -> None:
    """Refuse weights that were saved while an adapter was in the part.

    Their names do not fit the part any more: diffusers warns and draws new ones in their place.

    Raises:
        ConfigError: names the folder and a weight.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                names = list(weights.keys())
        except SafetensorError as error:
            raise ConfigError(f"{file} is truncated or damaged ({error}); restore it") from error
        strange = [name for name in names if ".base_layer." in name or ".lora_" in name]
        if strange:
            raise ConfigError(
                f"{file} was saved while an adapter was loaded ({strange[0]}), so its projections "
                "would be random; save the model after fuse_lora() and unload_lora_weights(), or "
                "the adapter alone with save_lora_weights()"
            )


def chosen_device(setting: str) -> "torch.device":
    """The device that a setting names; ``auto`` is the first GPU, where there is one.

    Raises:
        ConfigError: it cannot be used.
    """
    import torch

    available = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(available if setting == "auto" else setting)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={setting} cannot be used: {reason}; try auto") from error
    return device


def quiet_libraries() -> None:
    """Leave out bars of files and advice to programmers; warnings stay."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _attempt(model: str, load: Callable[[], Any]) -> Any:
    """What diffusers loads; its errors in words of ours.

    Raises:
        ConfigError: as in :func:`load_pipeline`.
    """
    try:
        return load()
    # Of a damaged folder, any of its readers' errors.
    except Exception as error:
        raise ConfigError(_reason(model, error)) from error


def _reason(model: str, error: Exception) -> str:
    reason = hub_reason(error)
    local = "or give a folder: model=<folder> takes what save_pretrained or a download has written"
    if reason == "gated":
        return (
            f"model={model} is gated: its owner asks for consent to its licence (of Stable "
            f"Diffusion, OpenRAIL-M). Agree on huggingface.co/{model} and call `hf auth login`; or "
            f"take one that asks for none, such as {' or '.join(OPEN_MODELS)}; {local}"
        )
    if reason == "missing":
        return (
            f"model={model} is not on huggingface.co, or private: names are case-sensitive, and "
            f"models are withdrawn; take {' or '.join(OPEN_MODELS)}, {local}"
        )
    if reason == "offline":
        return (
            f"model={model} is no folder here, not in the cache, and huggingface.co cannot be "
            f"reached; go online once, {local}"
        )
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return (
        f"model={model} cannot be loaded: {type(error).__name__}: {first}; a model is what "
        "save_pretrained has written, in safetensors, of classes that the installed diffusers and "
        "transformers have: restore it, update them, or take another"
    )
