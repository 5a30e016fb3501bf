"""A segmenter of a few layers that hold what an exporter gets wrong most easily."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfseg.networks.layers import PooledContext, conv_bn_relu, resize
from sfseg.networks.segmenter import Segmenter

WIDTH, CLASSES = 8, 5


class Backbone(nn.Module):
    """Maps at strides 4 and 8."""

    stride_multiple = 8

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.coarse = nn.Conv2d(WIDTH, WIDTH, 2, stride=2)

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.fine(image).relu()
        return [fine, self.coarse(fine).relu()]


class Head(nn.Module):
    """A grid of averages and a depthwise convolution with gaps; ``odd`` sees the features."""

    def __init__(self, odd: nn.Module | None = None, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.context = PooledContext(WIDTH, WIDTH, grid=3)
        self.gaps = conv_bn_relu(WIDTH, WIDTH, kernel_size=3, dilation=6, groups=WIDTH)
        self.odd = nn.Identity() if odd is None else odd
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = resize(self.context(maps[1]), maps[0].shape[-2:]) + self.gaps(maps[0])
        logits: Tensor = self.classifier(self.odd(x))
        return logits


class TurnsWide(nn.Module):
    """Looks at a size in Python: of a wide image it does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[-1] > 35 else -x


def small_network(odd: nn.Module | None = None, num_classes: int = CLASSES) -> Segmenter:
    """In eval mode; its logits depend on the image as those of trained networks do."""
    network = Segmenter(Backbone(), Head(odd, num_classes))
    with torch.no_grad():
        network.head.classifier.weight.mul_(10)
    return network.eval()
