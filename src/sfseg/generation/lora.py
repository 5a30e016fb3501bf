"""Low-rank adapters (LoRA) of a diffusion model: added, written to a file, and merged.

peft alone puts them in: transformers' own way asks for a version of it, which 5.24.0 does for one
that is not out.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

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


@torch.no_grad()
def merged(pipeline: Any, parts: Mapping[str, nn.Module]) -> Any:
    """The pipeline with the parts' adapters added to its weights; the parts stay as they are.

    It shares all weights that have no adapter, so that it takes little memory.
    """
    from peft.tuners.lora import LoraLayer

    plain = {}
    for name, part in parts.items():
        shared = {id(tensor): tensor for tensor in (*part.parameters(), *part.buffers())}
        plain[name] = copy.deepcopy(part, shared)
        layers = {
            key: layer for key, layer in plain[name].named_modules() if isinstance(layer, LoraLayer)
        }
        for key, layer in layers.items():
            linear = layer.get_base_layer()
            update = layer.get_delta_weight(NAME)  # alpha / rank * B A
            linear.weight = nn.Parameter(linear.weight + update, requires_grad=False)
            plain[name].set_submodule(key, linear)
    whole = copy.copy(pipeline)
    whole.register_modules(**plain)
    return whole
