"""The swap of amplitudes against a discrete Fourier transform written as its definition."""

import numpy as np
import pytest
import torch
from make import picture

from sfseg.data.fourier import fourier_swap, low_frequencies
from sfseg.ops.styles import swap_amplitude


def matrices(size):
    """The transform of an axis, and the one back."""
    steps = np.arange(size)
    forward = np.exp(-2j * np.pi * np.outer(steps, steps) / size)
    return forward, forward.conj() / size


def naive(source, target, reach):
    """All frequencies of each channel, those of a centred square one by one; complex."""
    height, width = source.shape[:2]
    (rows, rows_back), (columns, columns_back) = matrices(height), matrices(width)
    found = np.empty(source.shape, np.complex128)
    for channel in range(3):
        own = rows @ source[..., channel].astype(float) @ columns
        other = rows @ target[..., channel].astype(float) @ columns
        for u in range(-reach, reach + 1):
            for v in range(-reach, reach + 1):
                own[u, v] = abs(other[u, v]) * np.exp(1j * np.angle(own[u, v]))
        found[..., channel] = rows_back @ own @ columns_back
    return found


@pytest.mark.parametrize("size", [(12, 20), (13, 9), (16, 16)])
@pytest.mark.parametrize("beta", [0.01, 0.12, 0.3, 0.49])
def test_the_swap_is_that_of_all_frequencies(size, beta):
    source, target = picture(0, size), picture(1, size)
    expected = naive(source, target, int(beta * min(size)))
    # The square holds with every frequency its opposite: nothing but rounding is not real.
    assert np.abs(expected.imag).max() < 1e-9
    swapped = fourier_swap(source, target, beta)
    np.testing.assert_allclose(swapped, expected.real.clip(0, 255), atol=1e-9)
    assert swapped.min() >= 0 and swapped.max() <= 255


def test_it_leaves_the_range_and_is_cut_off():
    source = np.random.default_rng(0).choice([0, 255], (16, 16, 3)).astype(np.uint8)
    target = picture(3, (16, 16))
    raw = naive(source, target, 4).real
    assert raw.min() < 0 and raw.max() > 255
    np.testing.assert_allclose(fourier_swap(source, target, 0.25), raw.clip(0, 255), atol=1e-9)


@pytest.mark.parametrize("grey", [0, 100])
def test_what_has_no_phase_gets_that_of_zero(grey):
    flat, target = np.full((16, 24, 3), grey, np.uint8), picture(3, (16, 24))
    spectrum = np.zeros((16, 24, 3), complex)
    for u, v in np.ndindex(5, 5):
        spectrum[u - 2, v - 2] = np.abs(np.fft.fft2(target, axes=(0, 1)))[u - 2, v - 2]
    expected = np.fft.ifft2(spectrum, axes=(0, 1)).real
    np.testing.assert_allclose(fourier_swap(flat, target, 0.125), expected.clip(0, 255), atol=1e-9)


def test_an_image_in_its_own_style_is_itself():
    image = picture(5, (24, 40))
    np.testing.assert_array_equal(fourier_swap(image, image, 0.09), image)


def test_the_mean_is_the_targets():
    source, target = picture(0, (32, 32)) // 4 + 96, picture(1, (32, 32)) // 4 + 96
    np.testing.assert_allclose(
        fourier_swap(source, target, 0.1).mean(axis=(0, 1)), target.mean(axis=(0, 1)), atol=1e-9
    )


def test_it_is_the_style_that_source_models_see():
    images = [picture(k, (24, 40)) for k in range(2)]
    batch = [torch.from_numpy(x).double().permute(2, 0, 1)[None] / 255 for x in images]
    expected = 255 * swap_amplitude(*batch, share=0.1)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(fourier_swap(*images, 0.1), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("beta", "size", "reach"),
    [
        (0.01, (512, 1024), 5),
        (0.05, (720, 1280), 36),
        (0.09, (720, 1280), 64),
        (1 / 49, (49, 99), 1),
        (0.0099, (100, 100), 0),
    ],
)
def test_how_far_it_reaches(beta, size, reach):
    rows, columns = low_frequencies(beta, size)
    assert rows.tolist() == list(range(-reach, reach + 1))
    assert columns.tolist() == list(range(reach + 1))


@pytest.mark.parametrize("beta", [0, -0.1, 0.5, float("nan")])
def test_impossible_shares_are_refused(beta):
    with pytest.raises(ValueError, match=r"beta must be above 0 and below 0\.5, got"):
        fourier_swap(picture(0), picture(1), beta)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="source and target must be equal in size"):
        fourier_swap(picture(0), picture(1, (32, 65)), 0.1)
