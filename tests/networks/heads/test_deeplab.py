import re

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from sfseg.errors import ConfigError
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.deeplab import DeepLabV2Head, DeepLabV3Head
from sfseg.networks.heads.multi_head import drawn_anew
from sfseg.networks.segmenter import Segmenter


def our_name(name: str) -> str:
    """Where we keep a weight of torchvision's DeepLab-v3."""
    name = re.sub(r"^backbone\.", "backbone.trunk.", name)
    name = re.sub(r"^classifier\.0\.convs\.([0-3])\.", r"head.branches.\1.", name)
    name = re.sub(
        r"^classifier\.0\.convs\.4\.(\d)", lambda m: f"head.branches.4.conv.{int(m[1]) - 1}", name
    )
    name = name.replace("classifier.0.project.", "head.project.")
    name = re.sub(r"^classifier\.([12])\.", lambda m: f"head.bottleneck.{int(m[1]) - 1}.", name)
    return name.replace("classifier.4.", "head.classifier.")


@pytest.fixture(scope="module")
def deeplab_pair() -> tuple[Segmenter, nn.Module]:
    """The same random DeepLab-v3 here and in torchvision, with running statistics of its own."""
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5)
    with torch.no_grad():
        theirs.train()(torch.rand(2, 3, 40, 56))
    ours = build_segmenter(name="resnet50", head=DeepLabV3Head, num_classes=5, output_stride=8)
    ours.load_state_dict({our_name(key): value for key, value in theirs.state_dict().items()})
    ours.mean.zero_()
    ours.std.fill_(1)
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
def test_deeplab_v3_equals_torchvisions(
    deeplab_pair: tuple[Segmenter, nn.Module], training: bool
) -> None:
    images = torch.rand(2, 3, 40, 56)
    outputs = []
    for network in deeplab_pair:
        torch.manual_seed(0)  # of the dropout
        with torch.no_grad():
            outputs.append(network.train(training)(images))
    ours, theirs = outputs
    torch.testing.assert_close(ours, theirs["out"], rtol=1e-4, atol=1e-4)


def test_deeplab_v3_has_the_parameters_of_torchvisions() -> None:
    with torch.device("meta"):
        ours = build_segmenter(name="resnet50", head=DeepLabV3Head, num_classes=21, output_stride=8)
        theirs = deeplabv3_resnet50(weights=None, weights_backbone=None)
    counts = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert counts[0] == counts[1]
    assert 39.55e6 < counts[0] < 39.65e6


def test_deeplab_v3_needs_two_images_in_training() -> None:
    head = DeepLabV3Head((8,), 3, channels=4, dilations=(1,))
    with pytest.raises(ConfigError, match=r"data\.batch_size must be at least 2 .* got 1"):
        head([torch.rand(1, 8, 5, 7)])
    assert head([torch.rand(2, 8, 5, 7)]).shape == (2, 3, 5, 7)
    assert head.eval()([torch.rand(1, 8, 5, 7)]).shape == (1, 3, 5, 7)


@pytest.mark.parametrize("dilations", [(6, 12), (1, 2, 5)])
def test_deeplab_v2_sums_its_classifiers(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = DeepLabV2Head((4, 8), 3, dilations=dilations).double()
    feature = torch.rand(2, 8, 9, 13, dtype=torch.float64)
    naive = sum(
        naive_dilated(feature, conv, d) for conv, d in zip(head.classifiers, dilations, strict=True)
    )
    torch.testing.assert_close(head([torch.rand(1), feature]), naive)


def naive_dilated(feature: Tensor, conv: nn.Conv2d, dilation: int) -> Tensor:
    """Every tap by itself, on a shifted copy of the map."""
    height, width = feature.shape[-2:]
    padded = nn.functional.pad(feature, (dilation,) * 4)
    total = conv.bias.view(-1, 1, 1)
    for row in range(3):
        for column in range(3):
            top, left = row * dilation, column * dilation
            shifted = padded[..., top : top + height, left : left + width]
            total = total + torch.einsum("bchw,kc->bkhw", shifted, conv.weight[:, :, row, column])
    return total


def test_deeplab_v2_begins_small() -> None:
    torch.manual_seed(0)
    for classifier in DeepLabV2Head((512,), 19).classifiers:
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert classifier.bias.abs().max() < 0.02


@pytest.mark.parametrize("head", [DeepLabV2Head, DeepLabV3Head])
@pytest.mark.parametrize(
    ("argument", "values"), [("in_channels", ()), ("in_channels", (0,)), ("dilations", ())]
)
def test_impossible_shapes_are_refused(
    head: type[nn.Module], argument: str, values: tuple[int, ...]
) -> None:
    arguments = {"in_channels": (8,), "num_classes": 5} | {argument: values}
    with pytest.raises(ValueError, match=f"{argument} must be positive integers"):
        head(**arguments)


def test_a_version_2_head_drawn_anew_is_drawn_as_the_first_was():
    torch.manual_seed(0)
    head = DeepLabV2Head([64], 19)
    first, other = (h.classifiers[0].weight.detach() for h in (head, drawn_anew(head)))
    assert not torch.equal(first, other)
    # 0.01 of its own; PyTorch's default would be 0.024 here.
    assert first.std() == pytest.approx(0.01, rel=0.05)
    assert other.std() == pytest.approx(0.01, rel=0.05)
