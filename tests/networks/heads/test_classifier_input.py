import pytest
import torch
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks.heads.classifier_input import (
    classifier_input,
    classifier_of,
    classify,
    without_padding,
)
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head, DeepLabV3Head
from sfseg.networks.heads.fcn import FCN8sHead
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.heads.segnet import SegNetHead
from sfseg.networks.heads.upernet import UPerHead
from sfseg.networks.segmenter import Segmenter

CLASSES = 5
WIDTHS = (4, 4, 4, 4)
HEADS = {
    # As wide as the logits: the classifier is told by its name.
    "daformer": (DAFormerHead(WIDTHS, CLASSES, channels=CLASSES), "classifier"),
    "segformer": (SegFormerHead(WIDTHS, CLASSES, channels=8), "classifier"),
    "deeplabv3": (DeepLabV3Head(WIDTHS, CLASSES, channels=8), "classifier"),
    "upernet": (UPerHead(WIDTHS, CLASSES, channels=8), "classifier"),
    "deeplabv2": (DeepLabV2Head(WIDTHS, CLASSES), "classifiers.0"),
    "fcn8s": (FCN8sHead((2,) * 6, CLASSES, channels=8), "classifier"),
    "segnet": (SegNetHead((2,) * 6, CLASSES), "classifier"),
}


@pytest.mark.parametrize("name", sorted(HEADS))
def test_the_classifier_of_every_head(name):
    head, layer = HEADS[name]
    assert classifier_of(head) is head.get_submodule(layer)


def test_features_are_what_the_classifier_gets():
    head = SegFormerHead(WIDTHS, CLASSES, channels=8).eval().double()
    maps = [torch.randn(2, 4, 8 // 2**k, 16 // 2**k).double() for k in range(4)]
    logits, features = classify(head, maps)
    assert features.shape == (2, 8, 8, 16)
    torch.testing.assert_close(head.classifier(features), logits)
    torch.testing.assert_close(head(maps), logits)


def test_nothing_is_kept_afterwards():
    head = HEADS["deeplabv2"][0]
    maps = [torch.randn(1, 4, 4, 4)]
    with classifier_input(head) as seen:
        head(maps), head(maps)
    head(maps)
    assert len(seen) == 2 and not any(m._forward_pre_hooks for m in head.modules())
    assert seen[0] is maps[0]


class Linear(nn.Module):
    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(4, CLASSES)


def test_a_head_without_such_a_convolution_is_refused():
    with pytest.raises(ConfigError, match=r"must end in a Conv2d with 5 outputs.*got Linear"):
        classifier_of(Linear())


class Plain(nn.Module):
    stride_multiple = 32

    def forward(self, image):
        return [nn.functional.avg_pool2d(image, 8)]


@pytest.mark.parametrize("size", [(32, 64), (33, 60), (40, 7)])
def test_padding_is_cut_off(size):
    network = Segmenter(Plain(), HEADS["deeplabv2"][0])
    image = torch.rand(1, 3, *size)
    (maps,) = network.features(image)
    shown = without_padding(maps, image, network)
    assert shown.shape[-2:] == tuple(-(-side // 8) for side in size)
    assert torch.equal(shown, maps[..., : shown.shape[-2], : shown.shape[-1]])
