#!/usr/bin/env bash
# albumentations 2.0.8: A.PixelDistributionAdaptation turns uint8 images black.
#
# Expected: with blend_ratio=(1, 1) and transform_type="standard" each channel of the image takes
#   mean and deviation of the reference's, and uint8, which its documentation lists first among the
#   image types, and float32 images give the same picture within a rounding.
# Seen: float32 images do so; of uint8 images every value is 0 or 1, for all three transform types,
#   without a warning: the pixels were brought to 0..1 for the fit and are clipped to 0..255 without
#   the way back. With the default blend_ratio of 0.25 to 1 an image is multiplied by 0 to 0.75: it
#   gets darker by chance and never more like its reference. "pca" takes over the mean alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 numpy==2.4.0 \
  opencv-python-headless==4.13.0.92 scipy==1.17.0
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import albumentations
import numpy as np
from albumentations import PixelDistributionAdaptation

print("albumentations", albumentations.__version__, "numpy", np.__version__)
random = np.random.default_rng(0)
image, reference = (
    np.clip(random.normal(mean, deviation, (64, 64, 3)), 0, 255).astype(np.uint8)
    for mean, deviation in ((80, 20), (160, 40))
)


def adapted(kind: str, dtype: type, blend: float = 1.0) -> np.ndarray:
    """In 0..255, whatever the images hold."""
    scale = 1 if dtype is np.uint8 else 255
    pair = [(x / scale).astype(dtype) for x in (image, reference)]
    transform = PixelDistributionAdaptation(blend_ratio=(blend, blend), transform_type=kind, p=1.0)
    result = transform(image=pair[0], pda_metadata=[pair[1]])["image"]
    assert result.dtype == dtype
    return result.astype(np.float64) * scale


print(f"image {image.mean():.1f} +- {image.std():.1f}, "
      f"reference {reference.mean():.1f} +- {reference.std():.1f}")
for kind in ("pca", "standard", "minmax"):
    deep, bytes_ = adapted(kind, np.float32), adapted(kind, np.uint8)
    print(f"{kind:9s} float32 {deep.mean():6.1f} +- {deep.std():4.1f}, "
          f"uint8 {bytes_.mean():4.1f} +- {bytes_.std():3.1f}, largest {bytes_.max():.0f}")
    assert deep.mean() > 120 and bytes_.max() <= 1
deep = adapted("standard", np.float32)
assert abs(deep.mean() - reference.mean()) < 1 and abs(deep.std() - reference.std()) < 1
half = adapted("standard", np.uint8, blend=0.5)
print(f"standard  uint8, blend_ratio 0.5: {half.mean():.1f}, half of the image's own mean")
assert abs(half.mean() - image.mean() / 2) < 1
PY
