#!/usr/bin/env bash
# transformers 5.24.0, torch 2.14.1: a SamModel that is to be trained from scratch cannot tell near
# points from far ones.
#
# Expected: as in segment-anything, the waves that say where a point lies are drawn with a deviation
#   of 1 and stay as they are (a buffer), so that points a few pixels apart have almost equal codes.
# Seen: they are drawn with a deviation of half of the vision encoder's width, 384 for the default
#   SamConfig, and are a parameter that trains. Codes of points 4 of 1024 pixels apart have nothing in
#   common: the cosine between them is that of random ones. With a deviation of 1 it is above 0.99.
#   Published weights hold their own waves, so that only a new model is affected.
# What it did to us: a tiny SAM learnt to predict no mask at all, its loss falling all the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.14.1 torchvision==0.29.1
cat > "$folder/look.py" <<'PY'
import torch
from transformers import SamConfig, SamModel, SamVisionConfig

NEAR, SIDE = 4, 1024


def cosines(model):
    """Mean over 200 points, between the codes of each and of one a few pixels to its right."""
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(1, 1, 200, 2, generator=generator) * 0.9
    second = first + torch.tensor([NEAR / SIDE, 0.0])
    with torch.no_grad():
        codes = [model.shared_image_embedding(points)[0, 0] for points in (first, second)]
    return float(torch.nn.functional.cosine_similarity(*codes).mean())


torch.manual_seed(0)
# The default but for the depth of its encoder, which has no part in this.
model = SamModel(SamConfig(vision_config=SamVisionConfig(num_hidden_layers=1)))
width = model.config.vision_config.hidden_size
waves = model.shared_image_embedding.positional_embedding
print(f"width {width}, deviation {float(waves.detach().std()):.0f}, trains: {waves.requires_grad}")
near = cosines(model)
torch.nn.init.normal_(waves.data)
mended = cosines(model)
print(f"cosine of codes {NEAR} of {SIDE} pixels apart: {near:.3f}; with a deviation of 1: {mended:.3f}")
assert width == 768 and waves.requires_grad
assert abs(near) < 0.2 and mended > 0.99
PY
"$folder/venv/bin/python" "$folder/look.py"
