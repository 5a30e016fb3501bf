#!/usr/bin/env bash
# transformers 5.24.0, torch 2.14.1: SegFormer's layer_norm_eps is a setting that nothing reads.
#
# Expected: SegformerConfig(layer_norm_eps=...), whose default is 1e-6 as in its authors' code, is what
#   the encoder's layer normalisations add to the variance.
# Seen: all of them add 1e-5, PyTorch's own default, whatever the configuration says; the outputs of
#   models whose configurations differ in it are equal bit for bit. Published weights were trained with
#   1e-6. With 1e-6 in every layer the logits of a newly drawn model move by 4e-5 of their
#   spread.
# What it did to us: logits of a converted network did not agree with those of transformers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.14.1 torchvision==0.29.1
cat > "$folder/look.py" <<'PY'
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation


def model(eps):
    torch.manual_seed(0)
    return SegformerForSemanticSegmentation(SegformerConfig(layer_norm_eps=eps)).double().eval()


def epsilons(network):
    return {m.eps for m in network.modules() if isinstance(m, torch.nn.LayerNorm)}


@torch.no_grad()
def logits(network):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    return network(pixel_values=image).logits


small, large = model(1e-6), model(1e-1)
print("default of the configuration:", SegformerConfig().layer_norm_eps)
print("in the layers:", epsilons(small), "of one told 1e-06,", epsilons(large), "of one told 0.1")
same = torch.equal(logits(small), logits(large))
print("outputs of both are equal bit for bit:", same)
assert SegformerConfig().layer_norm_eps == 1e-6
assert epsilons(small) == epsilons(large) == {1e-5}
assert same
before = logits(small)
for part in small.modules():
    if isinstance(part, torch.nn.LayerNorm):
        part.eps = 1e-6
moved = float((logits(small) - before).abs().max() / before.std())
print(f"with 1e-06 in every layer: logits move by {moved:.1e} of their spread")
assert moved > 0
PY
"$folder/venv/bin/python" "$folder/look.py"
