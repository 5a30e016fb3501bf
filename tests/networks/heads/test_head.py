"""What every head shows of pixels, and how its logits follow from that."""

import pytest
import torch
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head, DeepLabV3Head
from sfseg.networks.heads.fcn import FCN8sHead
from sfseg.networks.heads.head import Head, require_head, require_trained_features
from sfseg.networks.heads.segformer import SegFormerHead
from sfseg.networks.heads.segnet import SegNetHead
from sfseg.networks.heads.upernet import UPerHead
from sfseg.networks.segmenter import Segmenter

CLASSES = 5
WIDTHS = (4, 4, 4, 4)
HEADS = {
    # Layers as wide as the logits are not taken for classifiers.
    "daformer": (DAFormerHead(WIDTHS, CLASSES, channels=CLASSES), ["classifier"]),
    "segformer": (SegFormerHead(WIDTHS, CLASSES, channels=8), ["classifier"]),
    "deeplabv3": (DeepLabV3Head(WIDTHS, CLASSES, channels=8), ["classifier"]),
    "upernet": (UPerHead(WIDTHS, CLASSES, channels=8), ["classifier"]),
    "deeplabv2": (DeepLabV2Head(WIDTHS, CLASSES), ["classifiers.0", "classifiers.1"]),
    "fcn8s": (FCN8sHead((2,) * 6, CLASSES, channels=8), ["classifier"]),
    "segnet": (SegNetHead((2,) * 6, CLASSES), ["classifier"]),
}


def maps(name):
    torch.manual_seed(1)
    if name in ("fcn8s", "segnet"):
        return [torch.randn(2, 2, 32 // 2**k, 64 // 2**k) for k in range(6)]
    return [torch.randn(2, 4, 8 // 2**k, 16 // 2**k) for k in range(4)]


def watched(head, layers, call):
    """What the layers were given during a call, and what it returned."""
    seen = []
    hooks = [
        head.get_submodule(layer).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for layer in layers
    ]
    result = call()
    for hook in hooks:
        hook.remove()
    return seen, result


@pytest.mark.parametrize("name", sorted(HEADS))
def test_features_are_what_every_classifier_is_shown(name):
    head, layers = HEADS[name]
    head.train()  # with dropout, which both passes draw alike
    torch.manual_seed(2)
    shown, logits = watched(head, layers, lambda: head(maps(name)))
    torch.manual_seed(2)
    features = head.features(maps(name))
    assert len(shown) == len(layers) and all(torch.equal(own, features) for own in shown)
    assert torch.equal(head.classify(features, maps(name)), logits)
    assert logits.shape[:2] == (2, CLASSES)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_the_scoring_layers_of_every_head(name):
    head, layers = HEADS[name]
    assert require_head(head, "hcl") is head
    assert head.scoring_layers() == [head.get_submodule(layer) for layer in layers]


@pytest.mark.parametrize("name", sorted(HEADS))
def test_no_scoring_layer_makes_features(name):
    head, layers = HEADS[name]
    head.eval()
    before = head.features(maps(name))
    kept = {layer: head.get_submodule(layer).weight.detach().clone() for layer in layers}
    with torch.no_grad():
        for layer in layers:
            head.get_submodule(layer).weight.zero_()
        assert torch.equal(head.features(maps(name)), before)
        for layer, weight in kept.items():
            head.get_submodule(layer).weight.copy_(weight)


class Own(Head):
    """A head of a user's: the two members and no more."""

    def __init__(self, classifier):
        super().__init__()
        self.num_classes = CLASSES
        self.layer = nn.Conv2d(4, 3, kernel_size=1)
        self.classifier = classifier

    def features(self, maps):
        return self.layer(maps[0]).relu()


def test_two_members_make_a_head():
    head = require_head(Own(nn.Conv2d(3, CLASSES, kernel_size=1)), "hcl")
    (finest, *_) = given = maps("daformer")
    assert torch.equal(head(given), head.classifier(head.layer(finest).relu()))
    assert head.scoring_layers() == [head.classifier]


class Silent(nn.Module):
    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.classifier = nn.Conv2d(4, CLASSES, kernel_size=1)

    def forward(self, maps):
        return self.classifier(maps[0])


@pytest.mark.parametrize(
    "head", [Silent(), Own(nn.Linear(3, CLASSES)), Own(nn.Conv2d(3, 2, kernel_size=1))]
)
def test_a_head_that_shows_no_features_is_refused(head):
    message = (
        r"must be a sfseg\.networks\.heads\.head\.Head for hcl.*two members: the method "
        rf"features\(maps\), and classifier, a Conv2d.*got {type(head).__name__}; choose another"
    )
    with pytest.raises(ConfigError, match=message):
        require_head(head, "hcl")


def test_a_head_without_features_cannot_be_built():
    class Half(Head):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?features"):
        Half()


class Plain(nn.Module):
    stride_multiple = 1

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, kernel_size=1)

    def forward(self, image):
        return [self.layer(image)]


def test_only_a_head_that_alone_makes_features_trains_them():
    network = Segmenter(Plain(), Own(nn.Conv2d(3, CLASSES, kernel_size=1)))
    with pytest.raises(ConfigError, match=r"backbone must be frozen for cpsl.*choices\.heads_only"):
        require_trained_features(network, "cpsl")
    require_trained_features(network.freeze("backbone"), "cpsl")
    network.head.layer.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"layers before its classifier for cpsl.*got Own"):
        require_trained_features(network, "cpsl")
    two = Segmenter(Plain(), DeepLabV2Head((4,), CLASSES)).freeze("backbone")
    with pytest.raises(ConfigError, match=r"layers before its classifier.*got DeepLabV2Head"):
        require_trained_features(two, "cpsl")
