#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93: IMREAD_COLOR_RGB | IMREAD_ANYDEPTH of a 16-bit TIFF gives BGR.
#
# Expected: with IMREAD_COLOR_RGB the first channel is red, for every format and depth that opencv
#   reads, as with 8-bit TIFF files, 16-bit PNG files and TIFF files of float32; and the same 16-bit
#   values become the same bytes where IMREAD_ANYDEPTH is not given, whatever the format.
# Seen: 16-bit RGB TIFF files, the usual form of satellite tiles, come as BGR with either flag, and
#   nothing says so. Read as bytes, a TIFF file's values are scaled by 255 / 65535 and rounded, a PNG
#   file's lose their low byte: the same picture differs by one in both formats.
# What it did to us: asking for IMREAD_COLOR and exchanging channels ourselves is the way that is
#   right for all; a set whose files are converted from TIFF to PNG is not the same set.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 numpy==2.4.0 tifffile==2026.3.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import cv2
import numpy as np
import tifffile

print("opencv", cv2.__version__, "numpy", np.__version__, "tifffile", tifffile.__version__)
RED, BLUE = 60000, 1000
picture = np.zeros((4, 6, 3), np.uint16)
picture[..., 0], picture[..., 2] = RED, BLUE
tifffile.imwrite("16.tif", picture, photometric="rgb")
tifffile.imwrite("8.tif", (picture >> 8).astype(np.uint8), photometric="rgb")
tifffile.imwrite("float.tif", picture.astype(np.float32), photometric="rgb")
cv2.imwrite("16.png", picture[..., ::-1])

deep = cv2.IMREAD_ANYDEPTH
read = {
    name: [cv2.imread(name, kind | deep)[0, 0].tolist()
           for kind in (cv2.IMREAD_COLOR, cv2.IMREAD_COLOR_RGB)]
    for name in ("8.tif", "float.tif", "16.png", "16.tif")
}
for name, (bgr, rgb) in read.items():
    print(f"{name:10s} IMREAD_COLOR {bgr}, IMREAD_COLOR_RGB {rgb}")
    assert bgr[0] < bgr[2]
    assert (rgb == bgr) if name == "16.tif" else (rgb == bgr[::-1])

as_bytes = {name: cv2.imread(name, cv2.IMREAD_COLOR)[0, 0].tolist() for name in ("16.png", "16.tif")}
print("as bytes:", as_bytes)
assert as_bytes == {"16.png": [BLUE >> 8, 0, RED >> 8], "16.tif": [4, 0, 233]}
PY
