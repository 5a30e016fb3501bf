"""Write a tiny segment-anything model of random weights, in the format that real ones have.

    python scripts/tiny_sam.py tiny_sam
    python scripts/tiny_sam.py tiny_sam2 --kind sam2
    sfseg-train method=uniuvpt pseudo_labels.refine=sam pseudo_labels.sam.model=tiny_sam

It has learnt nothing: for tests, and for trying a run before the real model is downloaded.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

SIDE = {"sam": 64, "sam2": 128}
"""Of the square that each sees, in pixels."""
DECODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 32,
    "iou_head_hidden_dim": 16,
}  # fmt: skip


def tiny_sam() -> Any:
    """A SAM of 88,000 weights."""
    from transformers import SamConfig, SamModel

    prompts = {"hidden_size": 32, "image_size": SIDE["sam"], "patch_size": 16,
               "mask_input_channels": 4}  # fmt: skip
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 64,
        "image_size": SIDE["sam"], "patch_size": 16, "output_channels": 32, "window_size": 2,
        "global_attn_indexes": [1], "num_pos_feats": 16,
    }  # fmt: skip
    return SamModel(
        SamConfig(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=dict(DECODER)
        )
    )


def tiny_sam2() -> Any:
    """A SAM 2 of three resolutions."""
    from transformers import Sam2Config, Sam2Model

    side = SIDE["sam2"]
    trunk = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [side, side],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
        "blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [4, 2, 2, 2],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [2, 2],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": trunk, "fpn_hidden_size": 32,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": side, "patch_size": 16, "mask_input_channels": 4}
    return Sam2Model(
        Sam2Config(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=dict(DECODER)
        )
    )


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=tuple(SIDE), default="sam")
    given = parser.parse_args(words)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    (tiny_sam if given.kind == "sam" else tiny_sam2)().save_pretrained(given.folder)


if __name__ == "__main__":
    main()
