#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6: equal tensors with equal metadata are not equal files.
#
# Expected: save() of the same tensors and the same metadata gives the same bytes, as it does
#   without metadata: the header lists tensors by type and name, whatever the order of the
#   dictionary.
# Seen: entries of __metadata__ come in another order with every call, within one process too. Of
#   40 files with eight entries each, most differ, while tensors and metadata read from them are
#   equal; the length is the same. With no entry or one, all 40 are equal.
# What it did to us: adapters of a diffusion model with their settings in the header had other
#   hashes after the same training, so that a killed run could not be shown to end with the same
#   files as one that was not. We sort the header.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cat > "$folder/look.py" <<'PY'
import json

import numpy as np
from safetensors.numpy import load, save

TENSORS = {f"layer.{k}": np.full((2, 2), k, np.float32) for k in range(3)}
BACKWARDS = dict(reversed(TENSORS.items()))


def metadata_of(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__")


for entries in (0, 1, 8):
    metadata = {f"key{k}": str(k) for k in range(entries)} or None
    files = [save(TENSORS, metadata=metadata) for _ in range(40)]
    print(f"{entries} entries: {len(set(files))} different files of {len(files)}")
    assert len({len(data) for data in files}) == 1
    for data in files:
        assert metadata_of(data) == metadata
        read = load(data)
        assert all(np.array_equal(read[name], TENSORS[name]) for name in TENSORS)
    if entries < 2:
        assert len(set(files)) == 1
        assert save(BACKWARDS, metadata=metadata) == files[0]
    else:
        assert len(set(files)) > 20
PY
"$folder/venv/bin/python" "$folder/look.py"
