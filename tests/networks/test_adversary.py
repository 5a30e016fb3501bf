"""Generator and discriminator: sizes, ranges, conditions."""

import pytest
import torch
from torch import nn

from sfseg.networks.adversary import PAPER_RATE, Generator, PatchDiscriminator, learning_rate
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
    with pytest.raises(ValueError, match=r"at least 16x16 pixels, got 20x15; lower method\.patch"):
        judge(torch.rand(1, 5, 15, 20), torch.tensor([0]))


def test_noise_of_a_seed_is_the_same_wherever_it_is_drawn() -> None:
    made = Generator((16, 16), latent=8, width=4)
    first = made.noise(2, random=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(made.noise(2, random=torch.Generator().manual_seed(3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(made.noise(2), first) and first.shape == (2, 8)


def test_two_networks_are_shown_the_same_images_in_eval_mode() -> None:
    torch.manual_seed(0)
    made = Generator((16, 16), latent=8, width=4).train()
    source, network = (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1)) for _ in range(2))
    statistics = [buffer.clone() for part in (made, source, network) for buffer in part.buffers()]
    noise = made.noise(4)
    image, theirs, mine = made.shown_to(source, network, noise=noise)
    now = [buffer for part in (made, source, network) for buffer in part.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(statistics, now, strict=True))
    assert made.training and source.training and network.training and not image.requires_grad
    for part in (made, source, network):
        part.eval()
    assert torch.equal(image, made(noise))
    assert torch.equal(theirs, source(image).argmax(dim=1))
    assert torch.equal(mine, network(image).argmax(dim=1)) and not torch.equal(mine, theirs)


def test_patches_must_fit() -> None:
    for patches, images in ((2, 2), (1, 3), (4, 4)):
        PatchDiscriminator.require_fitting(patches, images=images, size=(64, 96))
    refused = [
        (0, 2, "patches must be at least 1, got 0"),
        (2, 3, r"an even number of images.*got 3"),
        (5, 2, r"patches must be at most 4 for crops of 96x64, which leaves 16 pixels each, got 5"),
    ]
    for patches, images, message in refused:
        with pytest.raises(ValueError, match=message):
            PatchDiscriminator.require_fitting(patches, images=images, size=(64, 96))


def test_learning_rates() -> None:
    assert learning_rate("lr", 0.3) == 0.3 and learning_rate("lr", "paper") == PAPER_RATE
    for wrong in (0.0, -1.0, "papre"):
        with pytest.raises(ValueError, match=f"lr must be positive or 'paper', got {wrong!r}"):
            learning_rate("lr", wrong)  # type: ignore[arg-type]
