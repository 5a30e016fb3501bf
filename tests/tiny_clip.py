"""A CLIP of few weights, under a name that open_clip knows: for tests without a network."""

import json
from pathlib import Path
from typing import Any

import torch

NAME = "tiny-clip-of-tests"
DIM = 16
CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def tiny_clip(folder: Path, open_clip: Any) -> str:
    """Random weights in open_clip's format; their architecture is then known as ``NAME``."""
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(0)
    path = folder / "open_clip_pytorch_model.bin"
    torch.save(open_clip.create_model(NAME).state_dict(), path)
    return str(path)
