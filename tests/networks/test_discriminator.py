"""The discriminator of predictions: its arithmetic by hand, sizes, refusals."""

from collections.abc import Iterator

import pytest
import torch
from shallow import make_as_shipped, make_shallow
from torch import Tensor

from sfseg.networks.discriminator import Discriminator


def made(num_classes: int = 5, width: int = 2) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(num_classes, width=width)


def convolved(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """4x4 pixels, two apart, with a border of zeros: place by place."""
    images, channels, height, width = maps.shape
    wide = maps.new_zeros(images, channels, height + 2, width + 2)
    wide[..., 1:-1, 1:-1] = maps
    found = maps.new_empty(images, len(weight), height // 2, width // 2)
    for y in range(height // 2):
        for x in range(width // 2):
            window = wide[:, None, :, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4]
            found[..., y, x] = (window * weight).sum(dim=(2, 3, 4)) + bias
    return found


def test_five_convolutions_with_a_leaky_relu_after_four() -> None:
    judge = made().double()
    maps = torch.rand(2, 5, 64, 97, dtype=torch.float64)
    weights = list(judge.parameters())
    assert [tuple(w.shape) for w in weights[::2]] == [
        (2, 5, 4, 4), (4, 2, 4, 4), (8, 4, 4, 4), (16, 8, 4, 4), (1, 16, 4, 4),
    ]  # fmt: skip
    expected = maps
    for k, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        expected = convolved(expected, weight, bias)
        if k < 4:
            expected = torch.where(expected > 0, expected, 0.2 * expected)
    assert expected.shape == (2, 1, 2, 3)
    torch.testing.assert_close(judge(maps), expected)


@pytest.fixture
def as_shipped() -> Iterator[None]:
    make_as_shipped()
    yield
    make_shallow()


@pytest.mark.usefixtures("as_shipped")
def test_parameters_are_those_of_the_paper() -> None:
    sizes = [p.numel() for p in Discriminator(19).parameters()]
    assert sum(sizes) == 16 * (19 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 960 + 1


def test_a_verdict_does_not_depend_on_the_rest_of_the_batch() -> None:
    judge, maps = made(), torch.rand(3, 5, 32, 40)
    alone = torch.cat([judge(image[None]) for image in maps])
    torch.testing.assert_close(judge(maps), alone)


def test_smaller_pictures_are_continued_by_their_border() -> None:
    judge, maps = made(), torch.rand(1, 5, 20, 40)
    grown = torch.cat([maps, maps[:, :, -1:].expand(-1, -1, 12, -1)], dim=2)
    assert torch.equal(judge(maps), judge(grown)) and judge(maps[..., :1, :1]).shape[-2:] == (1, 1)


def test_maps_of_any_precision() -> None:
    judge = made().to(torch.bfloat16)
    assert judge(torch.rand(1, 5, 32, 32)).dtype == torch.bfloat16


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        Discriminator(0)
    with pytest.raises(RuntimeError, match=r"layers\.0\.weight.*\[2, 5, 4, 4\].*\[2, 6, 4, 4\]"):
        made(6).load_state_dict(made(5).state_dict())
    with pytest.raises(ValueError, match=r"at least 32x32 pixels.*got 64x31; set data\.target_cr"):
        Discriminator.require_fitting((31, 64), setting="data.target_crop")
    for size in ((32, 32), None):
        Discriminator.require_fitting(size, setting="data.target_crop")
