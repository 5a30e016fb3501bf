"""Generator and discriminator: sizes, ranges, conditions."""

import pytest
import torch

from sfseg.networks.adversary import Generator, PatchDiscriminator
from sfseg.optim import count_parameters


@pytest.mark.parametrize("size", [(32, 48), (20, 33), (5, 7)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    made = Generator(size, latent=8, width=4)
    image = made(made.noise(3))
    assert image.shape == (3, 3, *size)
    assert image.min() >= 0 and image.max() <= 1 and not torch.equal(image[0], image[1])


def test_parameters_at_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        made = Generator((128, 256))
    assert count_parameters(made.parameters())[0] / 1e6 == pytest.approx(19.66, abs=0.05)


def test_position_and_patch_decide() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(5, 4, embedding=8, width=4)
    patch = torch.rand(2, 5, 16, 21)
    there, elsewhere = (judge(patch, torch.tensor(k)) for k in ([0, 1], [2, 1]))
    assert there.shape == (2,)
    assert there[0] != elsewhere[0] and torch.equal(there[1], elsewhere[1])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Generator((0, 16))
    judge = PatchDiscriminator(5, 4, embedding=8, width=4)
    with pytest.raises(ValueError, match=r"at least 16x16 pixels, got 15x20; lower method\.patch"):
        judge(torch.rand(1, 5, 15, 20), torch.tensor([0]))
