"""Low-rank adapters (LoRA) of a diffusion model: added, written to a file, and merged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfseg.generation.pipelines import load_pipeline
from sfseg.generation.settings import Lora
from sfseg.randomness import seed32

PROJECTIONS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
"""Matrices of the attention, self and cross, that get an adapter, by the end of their names."""


def add_adapters(parts: Mapping[str, nn.Module], lora: Lora, seed: int) -> None:
    """Give the parts of a pipeline adapters, which change nothing yet and alone are trained."""
    from peft import LoraConfig

    for name, part in parts.items():
        torch.manual_seed(seed32(seed, 0, 0, f"generation/adapter/{name}"))
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            init_lora_weights="gaussian",
            target_modules=PROJECTIONS[name],
        )
        part.add_adapter(config)  # type: ignore[operator]


def write_adapters(pipeline: Any, parts: Mapping[str, nn.Module], folder: Path) -> None:
    """Write ``pytorch_lora_weights.safetensors``, which ``pipeline.load_lora_weights`` reads.

    Alpha stands in the file's metadata; a reader that finds none there takes the rank for it.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    arguments: dict[str, Any] = {}
    for name, part in parts.items():
        adapters = get_peft_model_state_dict(part)
        arguments[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(adapters)
        config: Any = part.peft_config["default"]  # type: ignore[index]
        arguments[f"{name}_lora_adapter_metadata"] = config.to_dict()
    pipeline.save_lora_weights(folder, **arguments)


def merged(model: str, folder: Path) -> Any:
    """The model with the adapters that a folder holds multiplied into its weights.

    It is read anew: taking adapters out of weights again would leave these with other roundings.
    """
    pipeline = load_pipeline(model)
    pipeline.load_lora_weights(folder)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline
