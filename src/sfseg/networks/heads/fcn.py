"""The head of FCN-8s: VGG's own classifier slid over the image, and two finer maps."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.heads.head import Head
from sfseg.networks.layers import require_vgg
from sfseg.networks.weights.checkpoint import load_strictly


class FCN8sHead(Head):
    """Fully convolutional network with skips (Long et al., CVPR 2015, arXiv:1411.4038).

    VGG's two wide layers become convolutions (7x7 and 1x1) and begin with its ImageNet weights
    where the backbone does. Scores of the pooled maps at strides 32, 16 and 8 are added on the
    way up. The padding is even, not the authors' 100 pixels, so maps keep their places.

    Args:
        in_channels: widths of VGG's six maps.
        num_classes: number of logits per pixel.
        channels: width of the two wide layers; 4096 in VGG.
        dropout: probability that a value is dropped after each of them.

    Raises:
        ValueError: the maps are not VGG's.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_vgg(in_channels, head="fcn8s", backbone="vgg16_fcn8s")
        self.num_classes = num_classes
        self.fc6 = nn.Conv2d(in_channels[5], channels, kernel_size=7, padding=3)
        self.fc7 = nn.Conv2d(channels, channels, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = _zero(nn.Conv2d(channels, num_classes, kernel_size=1))
        self.classifier_pool4 = _zero(nn.Conv2d(in_channels[3], num_classes, kernel_size=1))
        self.classifier_pool3 = _zero(nn.Conv2d(in_channels[2], num_classes, kernel_size=1))
        self.upsample_pool5 = _twice_as_large(num_classes)
        self.upsample_pool4 = _twice_as_large(num_classes)

    def features(self, maps: Sequence[Tensor]) -> Float[Tensor, "B C h w"]:
        """Features at stride 32; ``maps`` are VGG's before each pooling, and the last."""
        x = maps[5]
        for layer in (self.fc6, self.fc7):
            x = self.dropout(F.relu(layer(x)))
        return x

    def classify(
        self, features: Float[Tensor, "B C h w"], maps: Sequence[Tensor]
    ) -> Float[Tensor, "B K H W"]:
        """Logits at stride 8, of the features and of two finer maps."""
        pool3, pool4 = (F.max_pool2d(feature, 2) for feature in maps[2:4])
        scores = self.upsample_pool5(self.classifier(features)) + self.classifier_pool4(pool4)
        logits: Tensor = self.upsample_pool4(scores) + self.classifier_pool3(pool3)
        return logits

    def load_classifier(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Take over the two wide layers of timm's VGG.

        Args:
            tensors: those of the whole model, by timm's names.
            source: where they come from, for the message.

        Raises:
            ConfigError: they are missing or of another width.
        """
        prefix = "pre_logits."
        wide = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if not wide:
            raise ConfigError(
                f"weights must hold VGG's classifier too for the fcn8s head, got {source} without "
                f"{prefix}fc1 and {prefix}fc2; take the file of the whole model, "
                "or another head; a trained FCN8s goes to backbone.checkpoint"
            )
        load_strictly(nn.ModuleDict({"fc1": self.fc6, "fc2": self.fc7}), wide, source=source)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    # Section 4.1 of the paper: random scores learn neither better nor faster.
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _twice_as_large(channels: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles a map, bilinearly until it has learned better."""
    conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
    triangle = torch.tensor([0.25, 0.75, 0.75, 0.25])
    kernel = triangle[:, None] * triangle  # (4, 4)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(channels)[:, :, None, None] * kernel)
    return conv
