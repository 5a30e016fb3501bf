"""Low-rank adapters (LoRA) of a diffusion model: added, written to a file, and merged.

peft alone puts them in: transformers' own way asks for a version of it, which 5.24.0 does for one
that is not out.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfseg.generation.pipelines import load_pipeline
from sfseg.generation.settings import Lora
from sfseg.randomness import seed32

PROJECTIONS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
"""Matrices of the attention, self and cross, that get an adapter, by the end of their names."""
NAME, FILE = "default", "pytorch_lora_weights.safetensors"


def add_adapters(parts: Mapping[str, nn.Module], lora: Lora, seed: int) -> None:
    """Give the parts of a pipeline adapters, which change nothing yet and alone are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    for name, part in parts.items():
        torch.manual_seed(seed32(seed, 0, 0, f"generation/adapter/{name}"))
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            init_lora_weights="gaussian",
            target_modules=PROJECTIONS[name],
        )
        inject_adapter_in_model(config, part, NAME)


def write_adapters(pipeline: Any, parts: Mapping[str, nn.Module], folder: Path) -> None:
    """Write a file that ``pipeline.load_lora_weights`` reads.

    Alpha stands in the file's metadata; a reader that finds none there takes the rank for it.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    arguments: dict[str, Any] = {}
    for name, part in parts.items():
        adapters = get_peft_model_state_dict(part, adapter_name=NAME)
        arguments[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(adapters)
        config: Any = part.peft_config[NAME]  # type: ignore[index]
        metadata = {**config.to_dict(), "target_modules": sorted(config.target_modules)}
        arguments[f"{name}_lora_adapter_metadata"] = metadata
    pipeline.save_lora_weights(folder, weight_name=FILE, **arguments)
    sort_header(folder / FILE)


def sort_header(file: Path) -> None:
    """Give equal safetensors files equal bytes: entries of their headers come in any order."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def merged(model: str, parts: Mapping[str, nn.Module]) -> Any:
    """The model with the parts' adapters added to its weights.

    It is read anew: what is added to a weight and subtracted again leaves another rounding.
    """
    pipeline = load_pipeline(model)
    for name, part in parts.items():
        plain: nn.Module = getattr(pipeline, name)
        for key, update in updates(part):
            weight = plain.get_parameter(f"{key}.weight")
            weight.data += update.to(weight.device)
    return pipeline


@torch.no_grad()
def updates(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names of the layers that have adapters, and alpha / rank * B A of each."""
    from peft.tuners.lora import LoraLayer

    for key, layer in part.named_modules():
        if isinstance(layer, LoraLayer):
            yield key, layer.get_delta_weight(NAME)
