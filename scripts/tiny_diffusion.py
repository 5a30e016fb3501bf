"""Write a diffusion model of the shape of Stable Diffusion, small enough for a test.

python scripts/tiny_diffusion.py <folder> [--seed 0] [--train]

A folder as diffusers writes it, with the parts of Stable Diffusion 1.4 (U-Net, VAE, CLIP's text
encoder and tokenizer, PNDM), 1.7 million random weights in all. Pictures of any size that is a
multiple of 8 come out, of noise alone, unless ``--train`` is given. What it is for: that a command
runs, goes on where it stopped, and gives the same bits again.

``--train`` teaches it drawn streets first, some minutes of one core; train_tiny_diffusion.py says
how. It stays coarse: the VAE's mean error of a value in -1..1 falls from 0.36 to 0.14 on scenes
that it trains on, where means of 2x2 pixels have 0.09, and reconstructions look like their streets.
Pictures that it draws have the colours and the grain of streets, dark green, grey, a blue of the
sky, often the sky above, and neither a road nor things; no prompt that was tried changed them to
the eye.

The tokenizer knows every single character, and ``sks`` as one token; other words are as many tokens
as they have characters.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
IDENTIFIER = "sks"
LONGEST = 77
"""Tokens of a prompt, as in Stable Diffusion."""
VAE_STEPS, UNET_STEPS = 400, 350
"""Of ``--train``: three minutes of one idle core."""


def tokenizer() -> "CLIPTokenizer":
    """Single characters, and one word."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = list(bytes_to_unicode().values())
    first, *others = IDENTIFIER
    merges, joined = [], first
    for k, character in enumerate(others, start=1):
        is_last = k == len(others)
        merges.append(f"{joined} {character}{WORD_END if is_last else ''}")
        joined += character
    words = [merge.replace(" ", "") for merge in merges]
    tokens = [*characters, *(c + WORD_END for c in characters), *words, START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
        rules.write_text("\n".join(["#version: 0.2", *merges, ""]))
        made: CLIPTokenizer = CLIPTokenizer(
            str(vocabulary), str(rules), model_max_length=LONGEST, pad_token=END
        )
    return made


def text_encoder(words: "CLIPTokenizer") -> "CLIPTextModel":
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=LONGEST, projection_dim=32,
            bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )  # fmt: skip


def pipeline(seed: int = 0) -> "StableDiffusionPipeline":
    """The model, its weights drawn from ``seed``; pictures have sides of multiples of 8."""
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    words = tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), latent_channels=4, norm_num_groups=8, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    # As in Stable Diffusion 1.4.
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        skip_prk_steps=True, set_alpha_to_one=False,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder(words), tokenizer=words, unet=unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--train", action="store_true", help="on drawn streets, for some minutes")
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--unet-steps", type=int, default=UNET_STEPS)
    given = parser.parse_args(words)
    if given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty; choose another folder")
    made = pipeline(given.seed)
    if given.train:
        from train_tiny_diffusion import train

        train(made, given.vae_steps, given.unet_steps, given.seed)
    made.save_pretrained(given.folder)
    known = "trained on drawn streets" if given.train else "not trained"
    print(f"{given.folder}: a tiny model of the shape of Stable Diffusion, {known}")


if __name__ == "__main__":
    main()
