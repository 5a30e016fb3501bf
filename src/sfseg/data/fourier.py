"""The swap of low frequencies by which FDA gives an image the style of another one."""

import numpy as np
from numpy.typing import NDArray

from sfseg.data.geometry import Image, Size

Pixels = NDArray[np.float64]
ROUNDING = 1e-9
"""By which a product may fall short of the whole number that it means."""
FAINT = 1e-12
"""Amplitudes below this share of the largest are 0."""


def fourier_swap(source: Image, target: Image, beta: float) -> Pixels:
    """An image whose low frequencies have the amplitudes of another one's.

    Yang and Soatto, FDA, CVPR 2020, arXiv:2004.05498, equation 3; phases, and so what is where,
    remain. Of its two public versions this is the one of the demonstration: a square of 2b + 1
    frequencies a side around 0, b = floor(beta * shorter side). It holds with every frequency the
    opposite one, so that what comes back is real but for rounding. The version of its training
    code copies corners 2b wide, from -b to b - 1: there a real image has lost a part.

    Only the change of these frequencies is transformed back, which leaves an image that is its
    own style exactly as it is.

    Args:
        source: (H, W, 3) RGB, 0 to 255.
        target: the same size.
        beta: above 0, below 0.5.

    Returns:
        (H, W, 3) RGB, not rounded; what leaves 0 to 255 is cut off.

    Raises:
        ValueError: sizes differ, or ``beta`` is out of its range.
    """
    if source.shape != target.shape:
        raise ValueError(
            f"source and target must be equal in size, got {source.shape} and {target.shape}"
        )
    height, width = source.shape[:2]
    rows, columns = low_frequencies(beta, (height, width))
    own, other = (_spectrum(image, len(columns))[rows] for image in (source, target))
    amplitude = np.abs(own)
    # What the source has nothing of has no phase either; that of rounding errors says nothing.
    phase = np.where(amplitude > FAINT * amplitude.max(), np.angle(own), 0.0)
    change = np.zeros((height, len(columns), 3), np.complex128)
    change[rows] = (np.abs(other) - amplitude) * np.exp(1j * phase)
    back = np.fft.irfft(np.fft.ifft(change, axis=0), n=width, axis=1)
    return np.clip(source + back, 0, 255)


def low_frequencies(beta: float, size: Size) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frequencies of rows, -b to b, and of columns, 0 to b; the opposite ones follow from them.

    Raises:
        ValueError: ``beta`` is not between 0 and 0.5, beyond which there are no frequencies.
    """
    require_beta(beta)
    reach = int(beta * min(size) + ROUNDING)
    return np.arange(-reach, reach + 1), np.arange(reach + 1)


def require_beta(beta: float) -> None:
    """Refuse a share of the frequencies that none has.

    Raises:
        ValueError: it is not above 0 and below 0.5.
    """
    if not 0 < beta < 0.5:
        raise ValueError(f"beta must be above 0 and below 0.5, got {beta}")


def _spectrum(image: Image, columns: int) -> NDArray[np.complex128]:
    """(H, columns, 3): all rows and the first columns of the two-dimensional transform."""
    return np.fft.fft(np.fft.rfft(image, axis=1)[:, :columns], axis=0)
