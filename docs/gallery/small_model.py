"""The network of these examples
=============================

Five layers, which learn the drawn game in seconds.
"""

import torch
from torch import Tensor, nn

from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.labels import CITYSCAPES
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import cross_entropy

SIZE = (64, 128)
WIDTH = 24


def scenes(domain: str, split: str, length: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8 and labels (N, H, W)."""
    drawn = Toyscapes(domain, split, length=length, size=SIZE)
    images = torch.stack([torch.from_numpy(drawn.image(k)) for k in range(length)])
    labels = torch.stack([torch.from_numpy(drawn.label(k)) for k in range(length)])
    return images.permute(0, 3, 1, 2).contiguous(), labels


class Backbone(nn.Module):
    """One map at a quarter of the image's size; batch normalisation after every convolution."""

    stride_multiple = 4

    def __init__(self) -> None:
        super().__init__()
        strides, layers, inputs = (2, 2, 1, 1), [], 3
        for stride in strides:
            layers += [
                nn.Conv2d(inputs, WIDTH, 5, stride, padding=2, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(),
            ]
            inputs = WIDTH
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]


class Head(nn.Module):
    """One convolution."""

    num_classes = CITYSCAPES.num_classes

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(WIDTH, self.num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.classifier(maps[0])


def trained(steps: int = 70) -> Segmenter:
    """The network after some steps on the game."""
    torch.manual_seed(0)
    images, labels = scenes("game", "train", 24)
    network = Segmenter(Backbone(), Head())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        chosen = torch.randint(len(images), (4,))
        optimizer.zero_grad()
        cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network.eval()
