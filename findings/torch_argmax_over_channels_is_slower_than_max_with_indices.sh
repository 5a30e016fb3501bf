#!/usr/bin/env bash
# torch 2.14.1 on a processor: argmax over the channels of a map takes several times as long as max,
# which gives the same indices and the values beside them.
#
# Expected: logits.argmax(dim=1) costs no more than logits.max(dim=1), of which it is a part.
# Seen: for (1, 19, 512, 1024) and larger, three to four times as much CPU time on one thread (0.131 s
#   and 0.044 s; 0.473 s and 0.107 s for 1024x1536), in float32 and bfloat16; indices are equal, the first
#   of equal values in both. Over the last dimension it is 1.3 to 1.4.
# What it did to us: label maps of evaluation, of pseudo-labels and of predictions took their largest part in it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
cat > "$folder/look.py" <<'PY'
import statistics
import time

import torch

torch.set_num_threads(1)


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(scores, dim):
    """CPU time of argmax over that of max, in turn."""
    times = [(seconds(lambda: scores.argmax(dim)), seconds(lambda: scores.max(dim)))
             for _ in range(6)][1:]
    return statistics.median(a for a, _ in times) / statistics.median(b for _, b in times)


found = {}
for shape, dim in (((1, 19, 512, 1024), 1), ((1, 19, 1024, 1536), 1), ((1, 512, 1024, 19), 3)):
    for dtype in (torch.float32, torch.bfloat16):
        scores = torch.randint(50, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert torch.equal(scores.argmax(dim), scores.max(dim).indices)
        found[shape, dtype] = ratio(scores, dim)
        print(shape, f"over dimension {dim}", dtype, f"argmax / max: {found[shape, dtype]:.2f}")
assert all(value > 1.5 for (shape, _), value in found.items() if shape[1] == 19)
PY
"$folder/venv/bin/python" "$folder/look.py"
