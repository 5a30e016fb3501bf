"""Teach a tiny segment-anything model the objects of drawn streets: a stand-in for SAM.

python scripts/train_tiny_sam.py tiny_sam stand_ins/wide [--steps 600]

``tiny_sam`` becomes a folder of transformers' SamModel, for ``pseudo_labels.refine=sam`` with
``pseudo_labels.sam.model=tiny_sam``. The model begins with random weights and learns from the
labelled streets of many cities that ``stand_in_clouds.py`` writes, none of which is one that
``toyscapes_to_styles`` judges by: given five points in a connected component of a class, its mask.
Classes it is not told. Of three masks the best one learns, as of SAM (Kirillov et al., ICCV 2023).

Not evidence for SAM, which has never seen such drawings and is no stand-in's size; what it shows is
that a model that knows objects, and no classes, is asked and answers as it should.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg.ops.components import components, random_points
from sfseg.randomness import generator

log = logging.getLogger("train_tiny_sam")
SIDE, PATCH = 256, 16
"""Of the square that the network sees, and of a patch, in pixels; masks have a quarter of it."""
IMAGES, OBJECTS, POINTS = 4, 8, 5
"""Of a step, of an image, and of an object."""
LEAST = 150
"""Pixels that an object must exceed."""
LR = 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVERY = 50
"""Steps between two lines of the log."""


def tiny_sam() -> Any:
    """A SamModel of 0.4 M parameters."""
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    vision = SamVisionConfig(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH, output_channels=32, mlp_dim=192, window_size=0,
        global_attn_indexes=[0, 1, 2, 3], num_pos_feats=16,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(
        hidden_size=32, image_size=SIDE, patch_size=PATCH, mask_input_channels=4
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_dim=64,
        iou_head_hidden_dim=32,
    )
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    model = SamModel(config)
    # Of the waves that say where a point lies: SAM's deviation is 1 and stays, that of transformers
    # is half of the encoder's width and trains, by which neighbours have nothing in common.
    waves = model.shared_image_embedding.positional_embedding.requires_grad_(False)
    torch.nn.init.normal_(waves)
    return model


def objects(folder: Path, name: str, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """An image (3, side, side), points (N, P, 2) in some of its objects, and their masks."""
    image = cv2.cvtColor(cv2.imread(str(folder / "images" / name)), cv2.COLOR_BGR2RGB)
    label = cv2.imread(str(folder / "masks" / name), cv2.IMREAD_GRAYSCALE)
    height, width = label.shape
    found = components(label, least=LEAST).kept
    chosen = [found[k] for k in rng.choice(len(found), OBJECTS, replace=len(found) < OBJECTS)]
    points = np.stack([random_points(component, POINTS, rng) for component in chosen])
    masks = np.zeros((OBJECTS, SIDE, SIDE), np.float32)
    for mask, component in zip(masks, chosen, strict=True):
        mask[component.rows, component.columns] = 1
    pixels = (torch.from_numpy(image).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    shown = F.pad(pixels.permute(2, 0, 1), (0, SIDE - width, 0, SIDE - height))
    return shown, torch.from_numpy(points).float(), torch.from_numpy(masks)


def loss_of(masks: Tensor, scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy and dice of the best of three masks, and the error of their predicted IoUs.

    Args:
        masks: (B, N, 3, h, w) logits.
        scores: (B, N, 3) predicted IoUs.
        targets: (B, N, h, w) in [0, 1].
    """
    wanted = targets[:, :, None].expand_as(masks)
    entropy = F.binary_cross_entropy_with_logits(masks, wanted, reduction="none").mean((-2, -1))
    inside = masks.sigmoid()
    both = (inside * wanted).sum((-2, -1))
    dice = 1 - (2 * both + 1) / (inside.sum((-2, -1)) + wanted.sum((-2, -1)) + 1)
    with torch.no_grad():
        claimed, there = masks > 0, wanted > 0.5
        iou = (claimed & there).sum((-2, -1)) / (claimed | there).sum((-2, -1)).clamp_min(1)
    best = (5 * entropy + dice).amin(dim=-1).mean()
    return best + F.mse_loss(scores, iou)


def train(folder: Path, wide: Path, *, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = tiny_sam()
    names = sorted(path.name for path in (wide / "images").glob("*.png"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        rng = generator(seed, 0, step, "tiny sam")
        parts = [objects(wide, names[k], rng) for k in rng.choice(len(names), IMAGES)]
        shown, points, masks = (torch.stack(part) for part in zip(*parts, strict=True))
        found = model(pixel_values=shown, input_points=points)
        targets = F.avg_pool2d(masks, SIDE // found.pred_masks.shape[-1])
        loss = loss_of(found.pred_masks, found.iou_scores, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % EVERY == 0:
            log.info("step %d/%d  loss %.3f", step + 1, steps, float(loss.detach()))
    model.save_pretrained(folder)
    colours = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours))


def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("wide", type=Path, help="with images/ and masks/")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    if given.steps < 1:
        parser.error(f"--steps must be at least 1, got {given.steps}")
    if not any((given.wide / "images").glob("*.png")):
        parser.error(f"{given.wide}/images holds no PNG; write it with stand_in_clouds.py")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(given.folder, given.wide, steps=given.steps, seed=given.seed)


if __name__ == "__main__":
    main()
