#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93: warpAffine with INTER_NEAREST doubles every other column of a label
# map that it shifts by half a pixel, and drops the ones between.
#
# Expected: a shift moves all pixels alike. The nearest pixel of a place between two is one of both,
#   always on the same side, as in opencv 4.13.0.92, where the map comes out whole.
# Seen: places between two pixels are rounded to the even one. Columns 16 17 18 19 20 21 become
#   16 16 18 18 20 20: half of a label map's columns are lost, thin objects with them, and nothing
#   says so. Rows likewise; any shift by a whole number and a half. remap, given the same places,
#   does not do so. Bilinear warps of bytes differ as well: half of the values of a noisy picture, by
#   up to 6, so that augmented images are not the same with both versions.
# What it did to us: nothing yet; labels here are resized and cropped, not warped. Whoever moves label
#   maps by half pixels, as centred grids of even and odd sizes need, should use remap, or crop.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/warp.py" <<'PY'
import sys

import cv2
import numpy as np

labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
noise = np.random.default_rng(0).integers(256, size=(128, 256, 3), dtype=np.uint8)
turn = np.array([[np.cos(0.2), -np.sin(0.2), 5.3], [np.sin(0.2), np.cos(0.2), -3.7]])
found = {}
for shift in (0.5, 1.5, -0.5, 0.25, 1.0):
    move = np.array([[1, 0, shift], [0, 1, 0]])
    found[f"by {shift}"] = cv2.warpAffine(labels, move, (8, 8), flags=cv2.INTER_NEAREST)[2]
y, x = np.mgrid[:8, :8].astype(np.float32)
found["remap"] = cv2.remap(labels, x - 0.5, y, cv2.INTER_NEAREST)[2]
found["bilinear"] = cv2.warpAffine(noise, turn, (256, 128), flags=cv2.INTER_LINEAR)
print("opencv", cv2.__version__)
for name, row in found.items():
    if name != "bilinear":
        print(f"  {name:8s}", row.tolist())
np.savez(sys.argv[1], **found)
PY
for version in 4.13.0.92 5.0.0.93; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet opencv-python-headless==$version numpy==2.4.0
    "$folder/$version/bin/python" "$folder/warp.py" "$folder/$version.npz"
done
"$folder/5.0.0.93/bin/python" - "$folder" <<'PY'
import sys

import numpy as np

old, new = (np.load(f"{sys.argv[1]}/{version}.npz") for version in ("4.13.0.92", "5.0.0.93"))
assert old["by 0.5"].tolist() == [16, 17, 18, 19, 20, 21, 22, 23]
assert new["by 0.5"].tolist() == [16, 16, 18, 18, 20, 20, 22, 22]
assert len(set(old["by -0.5"])) == 8 and len(set(new["by -0.5"])) == 5
assert all((old[name] == new[name]).all() for name in ("by 0.25", "by 1.0", "remap"))
assert new["remap"].tolist() == new["by 0.5"].tolist()
difference = np.abs(old["bilinear"].astype(int) - new["bilinear"])
print(f"bilinear: {(difference > 0).mean():.0%} of the values differ, by up to {difference.max()}")
assert (difference > 0).mean() > 0.3
PY
