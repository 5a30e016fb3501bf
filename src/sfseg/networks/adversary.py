"""Generator and discriminator of SFDA (Liu et al., CVPR 2021), after DCGAN (ICLR 2016).

The paper gives the size of the latent space and of the label embedding; its supplement with the
layers is not public. The layers here are those of data-free distillation for segmentation, which
the paper follows (DFAD, arXiv:1912.11006), and of discriminators of predictions (AdaptSegNet).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfseg.checks import require_whole
from sfseg.modes import evaluating
from sfseg.ops.patches import require_even
from sfseg.types import size_text

HALVINGS = 4
SMALLEST = 1 << HALVINGS
"""Side in pixels of the smallest patch that a discriminator takes."""
PAPER_RATE = 0.1
"""Of Adam, for both, as printed in the paper: it saturates 95% of the fakes' pixels."""
Rate = float | Literal["paper"]


class Generator(nn.Module):
    """Noise to images with values in [0, 1].

    A linear layer makes a map of a sixteenth of the size, four transposed convolutions double it.
    For 128x256 pixels it has 19.7 million parameters.

    Args:
        size: of the images (height, width); other than multiples of 16 are cut out of the next
            larger ones.
        latent: length of the noise.
        width: of the last maps; the first are 8 times as wide.

    Raises:
        ValueError: a size, length or width that is not positive.
    """

    def __init__(self, size: Sequence[int], *, latent: int = 256, width: int = 64) -> None:
        super().__init__()
        require_whole(1, size=min(size), latent=latent, width=width)
        self.size, self.latent = tuple(size), latent
        self.grid = tuple(-(-side // SMALLEST) for side in size)
        widths = (8 * width, 4 * width, 2 * width, width, width)
        self.start = nn.Linear(latent, widths[0] * self.grid[0] * self.grid[1])
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0])]
        for before, after in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Tanh())
        self.apply(_initialize)

    def noise(
        self, images: int, *, random: torch.Generator | None = None
    ) -> Float[Tensor, "B latent"]:
        """What images are made of, standard normal: equation (3).

        Args:
            images: B.
            random: a generator on the processor; None draws from torch's on the weights' device.
        """
        device = self.start.weight.device
        if random is None:
            return torch.randn(images, self.latent, device=device)
        return torch.randn(images, self.latent, generator=random).to(device)

    def forward(self, noise: Float[Tensor, "B latent"]) -> Float[Tensor, "B 3 H W"]:
        """Images; their pixels are read like a file's, divided by 255."""
        x = self.start(noise).unflatten(1, (-1, *self.grid))
        image = (self.layers(x).float() + 1) / 2
        return cast(Tensor, image[..., : self.size[0], : self.size[1]])

    @torch.no_grad()
    def shown_to(
        self, source: nn.Module, network: nn.Module, *, noise: Float[Tensor, "B latent"]
    ) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B H W"], Int[Tensor, "B H W"]]:
        """Images of noise, and the classes that two networks see there, for pictures.

        All batch normalisation uses running statistics for it; modes are afterwards as they were.
        """
        with evaluating(self), evaluating(source), evaluating(network):
            image: Tensor = self(noise)
            theirs, mine = (model(image).argmax(dim=1) for model in (source, network))
            return image, theirs, mine


class PatchDiscriminator(nn.Module):
    """Whether a patch of a prediction, of a known position, is a hard one.

    Four convolutions halve the patch, their mean beside an embedding of the position decides. There
    is no normalisation, which would tell the halves of a batch apart by their statistics.

    Args:
        num_classes: channels of a prediction.
        positions: number of positions.
        embedding: length of a position's embedding.
        width: of the first maps; the last are 8 times as wide.
    """

    def __init__(
        self, num_classes: int, positions: int, *, embedding: int = 256, width: int = 64
    ) -> None:
        super().__init__()
        widths = (num_classes, width, 2 * width, 4 * width, 8 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.embedding = nn.Embedding(positions, embedding)
        self.classifier = nn.Linear(widths[-1] + embedding, 1)
        self.apply(_initialize)

    def forward(
        self, patch: Float[Tensor, "P K h w"], position: Int[Tensor, " P"]
    ) -> Float[Tensor, " P"]:
        """Logits of being hard.

        Raises:
            ValueError: patches of fewer than 16 rows or columns.
        """
        if min(patch.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"patches must be at least {SMALLEST}x{SMALLEST} pixels, got "
                f"{size_text(patch.shape[-2:])}; lower method.patches, or enlarge the "
                "images and the crop"
            )
        patch = patch.to(self.classifier.weight.dtype)
        seen = self.layers(patch).mean(dim=(-2, -1))
        logits: Tensor = self.classifier(torch.cat([seen, self.embedding(position)], dim=1))
        return logits[:, 0]

    @staticmethod
    def require_fitting(patches: int, *, images: int, size: tuple[int, int]) -> None:
        """Refuse what cannot be cut into patches large enough, or their batch not be halved.

        Args:
            patches: rows and columns of them; 1 asks for none.
            images: of a batch.
            size: of its images (height, width).

        Raises:
            ValueError: no patch, an odd batch, or patches of fewer than 16 rows or columns.
        """
        require_whole(1, patches=patches)
        if patches == 1:
            return
        require_even(images)
        if min(size) // patches < SMALLEST:
            raise ValueError(
                f"patches must be at most {min(size) // SMALLEST} for crops of "
                f"{size_text(size)}, which leaves {SMALLEST} pixels each, got {patches}"
            )


def learning_rate(name: str, rate: Rate) -> float:
    """The rate in numbers.

    Raises:
        ValueError: names the argument, which must be positive or ``paper``.
    """
    number = PAPER_RATE if rate == "paper" else rate
    if isinstance(number, str) or number <= 0:
        raise ValueError(f"{name} must be positive or 'paper', got {rate!r}")
    return number


def _initialize(module: nn.Module) -> None:
    """DCGAN's: small normal weights."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, mean=1.0, std=0.02)
        nn.init.zeros_(module.bias)
