#!/usr/bin/env bash
# torch 2.14.1: batch normalisation in train mode saves its running statistics for the backward pass,
# which does not use them, and refuses gradients if anyone but torch has moved them meanwhile.
#
# Expected: in train mode the gradient follows from the batch's own mean and variance, so that running
#   statistics may be moved by hand between a forward pass and its backward pass: as a layer does that
#   leaves padding out of them, or keeps those of two domains apart, where both domains go through one
#   network before one backward pass.
# Seen: after such a move, backward raises "modified by an inplace operation"; the message names a
#   tensor [C], not the layer. torch's own second forward pass moves the same buffer as far and passes,
#   since it does not count as a change (the buffer's version stays 0). The gradient of the first pass
#   is the same to the last bit whatever the statistics are by then: a move through .data shows it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import torch.nn.functional as F
from torch import Tensor

print("torch", torch.__version__)
torch.manual_seed(0)
image = torch.randn(4, 3, 8, 8)


def gradient(move: str) -> Tensor:
    """Of a pass in train mode, after which its running mean has been moved in one way or another."""
    mean, variance = torch.zeros(3), torch.ones(3)
    x = image.clone().requires_grad_()
    normed = F.batch_norm(x, mean, variance, training=True, momentum=0.1)
    before = mean.clone()
    if move == "own":
        F.batch_norm(10 + image, mean, variance, training=True, momentum=0.1)
    elif move == "data":
        mean.data.add_(1)
    elif move == "by hand":
        mean.add_(1)
    print(f"{move:8} the mean moved by {float((mean - before).abs().max()):.2f}, "
          f"version {mean._version}")
    normed.pow(3).sum().backward()
    return x.grad


untouched = gradient("not")
for move in ("own", "data"):
    assert torch.equal(gradient(move), untouched)
try:
    gradient("by hand")
except RuntimeError as error:
    print("by hand:", str(error).split(";")[0])
    assert "modified by an inplace operation" in str(error) and "[3]" in str(error)
else:
    raise SystemExit("a move by hand is no longer refused")
PY
