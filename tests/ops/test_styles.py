import numpy as np
import pytest
import torch
from torch import Tensor

from sfseg.ops.styles import STYLES, adain, swap_amplitude
from sfseg.ops.styles_cartoon import cartoon

SIZES = [(2, 64, 96), (1, 37, 53), (3, 20, 9), (1, 1, 5)]
CHANGING = sorted(set(STYLES) - {"clean"})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(size: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """A ramp with blocks and grain; every image has its own colour."""
    y = torch.linspace(0, 1, height)[:, None]
    blocks = (torch.arange(height)[:, None] // 8 + torch.arange(width) // 8) % 2
    colour = torch.linspace(0.2, 0.8, 3 * size).view(size, 3, 1, 1)
    grain = torch.rand(size, 3, height, width, generator=rng(seed))
    return 0.5 * colour + 0.2 * y + 0.2 * blocks + 0.1 * grain


def test_styles_come_in_a_fixed_order() -> None:
    order = ["adain", "colour", "fda_noise", "fda", "snow", "frost", "cartoon", "clean"]
    assert list(STYLES) == order


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize(("size", "height", "width"), SIZES)
def test_range_and_shape_stay(name: str, size: int, height: int, width: int) -> None:
    for image in (scene(size, height, width), torch.rand(size, 3, height, width).round()):
        before = image.clone()
        styled = STYLES[name](image, rng())
        assert styled.shape == image.shape and styled.dtype == image.dtype
        assert styled.isfinite().all() and styled.min() >= 0 and styled.max() <= 1
        assert torch.equal(image, before), "changed in place"


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_images_give_numbers(name: str, level: float) -> None:
    styled = STYLES[name](torch.full((2, 3, 33, 40), level), rng())
    assert styled.isfinite().all() and styled.min() >= 0 and styled.max() <= 1


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("size", [1, 3])
def test_every_image_changes_but_keeps_its_content(name: str, size: int) -> None:
    image = scene(size)
    styled = STYLES[name](image, rng())
    assert ((styled - image).abs().mean(dim=(1, 2, 3)) > 0.005).all()
    for before, after in zip(image, styled, strict=True):
        both = torch.stack([before.mean(dim=0).flatten(), after.mean(dim=0).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.4


def test_the_clean_style_changes_nothing() -> None:
    image = scene()
    assert torch.equal(STYLES["clean"](image, rng()), image)


@pytest.mark.parametrize("name", STYLES)
def test_the_seed_decides(name: str) -> None:
    image = scene(1)
    torch.manual_seed(1)
    first = STYLES[name](image, rng(5))
    torch.manual_seed(2)
    assert torch.equal(STYLES[name](image, rng(5)), first)
    if name != "clean":
        others = [STYLES[name](image, rng(seed)) for seed in range(6, 16)]
        assert any(not torch.equal(other, first) for other in others)


@pytest.mark.parametrize("name", STYLES)
def test_gradients_stay_out(name: str) -> None:
    image = scene().requires_grad_()
    assert not STYLES[name](image, rng()).requires_grad


@pytest.mark.parametrize("name", CHANGING)
def test_images_of_a_batch_are_drawn_apart(name: str) -> None:
    """Two images that are equal do not stay so, unless a style takes from its neighbour alone."""
    image = scene(1).expand(8, -1, -1, -1)
    styled = STYLES[name](image, rng())
    # A processor may transform each image of a batch in another order.
    differs = ((styled[1:] - styled[:1]).abs() > 1e-5).flatten(1).any(dim=1)
    assert differs.any() == (name not in {"adain", "fda"})


def fda_by_numpy(image: Tensor, style: Tensor, share: float) -> np.ndarray:
    """With the whole spectrum, its centre in the middle."""
    height, width = image.shape[-2:]
    reach = int(np.floor(min(height, width) * share))
    own, other = (
        np.fft.fftshift(np.fft.fft2(x.double().numpy(), axes=(-2, -1)), axes=(-2, -1))
        for x in (image, style)
    )
    amplitude, phase = np.abs(own), np.angle(own)
    y, x = height // 2, width // 2
    window = np.s_[..., y - reach : y + reach + 1, x - reach : x + reach + 1]
    amplitude[window] = np.abs(other)[window]
    spectrum = np.fft.ifftshift(amplitude * np.exp(1j * phase), axes=(-2, -1))
    swapped = np.fft.ifft2(spectrum, axes=(-2, -1))
    np.testing.assert_allclose(swapped.imag, 0, atol=1e-9)
    return swapped.real.clip(0, 1)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 96), (37, 53), (96, 31), (30, 41), (1, 7), (400, 210)]
)
@pytest.mark.parametrize("share", [0.0, 0.005, 0.02, 0.1, 0.49])
def test_swapped_amplitudes_are_numpys(height: int, width: int, share: float) -> None:
    image = scene(2, height, width)
    style = torch.rand(2, 3, height, width, generator=rng(1))
    expected = fda_by_numpy(image, style, share)
    swapped = swap_amplitude(image, style, share=share)
    torch.testing.assert_close(swapped.double(), torch.from_numpy(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (37, 53)])
@pytest.mark.parametrize("share", [0.0, 0.005, 0.1])
def test_swapping_an_image_with_itself_changes_nothing(
    height: int, width: int, share: float
) -> None:
    image = scene(2, height, width)
    torch.testing.assert_close(
        swap_amplitude(image, image.clone(), share=share), image, atol=1e-5, rtol=0
    )


def test_the_mean_colour_is_always_swapped() -> None:
    image = 0.4 + 0.2 * torch.rand(1, 3, 40, 40, generator=rng())
    style = 0.3 + 0.2 * torch.rand(1, 3, 40, 40, generator=rng(1))
    swapped = swap_amplitude(image, style, share=0.005)
    torch.testing.assert_close(swapped.mean(dim=(2, 3)), style.mean(dim=(2, 3)))
    centred = image - image.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(swapped - swapped.mean(dim=(2, 3), keepdim=True), centred)


def test_fda_takes_from_the_neighbour_in_the_batch() -> None:
    image = scene(3)
    expected = swap_amplitude(image, image[[2, 0, 1]], share=0.005)
    assert torch.equal(STYLES["fda"](image, rng()), expected)


@pytest.mark.parametrize("share", [-0.1, 0.5, 1.0])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"share must be at least 0 and below 0\.5, got {share}"):
        swap_amplitude(scene(), scene(), share=share)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_adain_moves_the_statistics_a_share_of_the_way(alpha: float) -> None:
    image = torch.stack([
        0.3 + 0.2 * torch.rand(3, 40, 30, generator=rng()),
        0.4 + 0.1 * torch.rand(3, 40, 30, generator=rng(1)),
    ])  # fmt: skip
    moved = adain(image, rng(), alpha=alpha)
    for statistic in (torch.mean, torch.std):
        own = statistic(image, dim=(2, 3))
        expected = own + alpha * (own.flip(0) - own)
        torch.testing.assert_close(statistic(moved, dim=(2, 3)), expected)


def test_a_cartoon_has_even_surfaces_and_keeps_edges() -> None:
    image = torch.full((1, 3, 40, 40), 0.2)
    image[..., 20:] = 0.9
    noisy = image + 0.02 * torch.randn(image.shape, generator=rng())
    drawn = cartoon(noisy.clamp(0, 1), rng())
    left, right = drawn[..., 3:15], drawn[..., 25:37]
    assert left.std() < 0.01 and right.std() < 0.01 and right.mean() - left.mean() > 0.4
    assert drawn[..., 19:21].mean() < image[..., 19:21].mean() / 2  # the outline


def test_snow_and_frost_brighten() -> None:
    image = scene(4) * 0.6
    for name in ("snow", "frost"):
        styled = STYLES[name](image, rng())
        assert (styled.mean(dim=(1, 2, 3)) > image.mean(dim=(1, 2, 3)) + 0.03).all()


def test_frost_is_thicker_at_the_borders() -> None:
    styled = STYLES["frost"](torch.zeros(8, 3, 60, 60), rng())
    assert styled[..., :5].mean() > styled[..., 25:35, 25:35].mean() + 0.1


def test_flakes_leave_traces_longer_than_wide() -> None:
    styled = STYLES["snow"](torch.zeros(16, 3, 100, 100), rng())
    flakes = styled[:, 0] > 0.6
    assert 0.005 < flakes.float().mean() < 0.4
