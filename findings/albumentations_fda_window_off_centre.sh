#!/usr/bin/env bash
# albumentations 2.0.8, A.FDA: the window of amplitudes that it swaps is not centred on frequency 0.
#
# Expected (Yang and Soatto, CVPR 2020, and their published code): with b = floor(beta * shorter
#   side) the reference's amplitudes replace those of the frequencies -b to b in each direction,
#   frequency 0, the mean colour, among them also for b = 0. Each frequency goes with its negative,
#   as the spectrum of a real image needs it.
# Seen: on sides of even length the window is -b - 1 to b - 2. For b = 0 it is empty and for b = 1,
#   which is beta = 0.01 on a crop of 128 pixels, it misses frequency 0: a dark image stays dark
#   whatever its reference. For b = 3 only the frequencies 0 and 1 are swapped; 2, 3 and 4 are
#   swapped on the negative side alone, and the real part that is returned has half of the change.
#   Betas of papers therefore do less than there, and below 2 / side nothing to the mean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 numpy==2.4.0 \
  opencv-python-headless==4.13.0.92 scipy==1.17.0
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import albumentations
import numpy as np
from albumentations import FDA

SIDE = 128
print("albumentations", albumentations.__version__, "numpy", np.__version__, "side", SIDE)


def adapted(image: np.ndarray, reference: np.ndarray, b: int) -> np.ndarray:
    beta = (b + 0.5) / SIDE
    return FDA(beta_limit=(beta, beta), p=1.0)(image=image, fda_metadata=[reference])["image"]


def published(image: np.ndarray, reference: np.ndarray, b: int) -> np.ndarray:
    """Equations 2 and 3 of the paper; frequencies as numpy orders them."""
    own, other = (np.fft.fft2(x, axes=(0, 1)) for x in (image, reference))
    low = np.abs(np.rint(np.fft.fftfreq(SIDE) * SIDE)) <= b
    window = (low[:, None] & low[None])[..., None]
    amplitude = np.where(window, np.abs(other), np.abs(own))
    return np.fft.ifft2(amplitude * np.exp(1j * np.angle(own)), axes=(0, 1)).real


def grey(level: float) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), level, np.float32)


for b, seen in ((0, 0.2), (1, 0.2), (2, 0.8), (3, 0.8)):
    means = [float(f(grey(0.2), grey(0.8), b).mean()) for f in (published, adapted)]
    print(f"b = {b}: mean of grey 0.2 beside grey 0.8: paper {means[0]:.2f}, A.FDA {means[1]:.2f}")
    assert np.allclose(means, [0.8, seen], atol=1e-3)

# Waves of the frequencies 1 to 6 beside a reference without any: what is left of each.
phase = 2 * np.pi * np.arange(SIDE) / SIDE
waves = sum(0.05 * np.cos(f * phase) for f in range(1, 7))
image = (grey(0.5) + waves[None, :, None]).astype(np.float32)
left = {}
for name, f in (("paper", published), ("A.FDA", adapted)):
    spectrum = np.abs(np.fft.fft2(f(image, grey(0.5), 3), axes=(0, 1)))[0, 1:7, 0]
    left[name] = np.round(2 * spectrum / SIDE**2 / 0.05, 2)
    print(f"b = 3: left of the frequencies 1 to 6: {name} {left[name]}")
assert np.allclose(left["paper"], [0, 0, 0, 1, 1, 1], atol=0.02)
assert np.allclose(left["A.FDA"], [0, 0.5, 0.5, 0.5, 1, 1], atol=0.02)
PY
