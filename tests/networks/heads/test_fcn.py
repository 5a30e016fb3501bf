from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vgg import VGG, ConvMlp
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.backbones import pyramid
from sfseg.networks.backbones.pyramid import classifier_tensors
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.fcn import FCN8sHead

WIDTHS = (4, 4, 6, 8, 8, 8)


def narrow(num_classes: int = 5) -> FCN8sHead:
    return FCN8sHead(WIDTHS, num_classes, channels=12)


def narrow_vgg(name: str, num_classes: int = 9) -> VGG:
    """A VGG with all its parts and few weights; timm has no argument for the wide layers."""
    assert name == "vgg16"
    network = VGG([4, "M", 4, "M", 6, "M", 8, "M", 8, "M"], num_classes=num_classes)
    network.pre_logits = ConvMlp(8, 12, 7)
    network.head.fc = nn.Linear(12, num_classes)
    network.pretrained_cfg = timm.get_pretrained_cfg("vgg16").to_dict()
    return network


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[VGG]:
    """A whole pretrained VGG, as timm would serve it."""
    torch.manual_seed(0)
    network = narrow_vgg("vgg16")
    monkeypatch.setattr(timm, "create_model", narrow_vgg)
    monkeypatch.setattr(
        pyramid,
        "load_pretrained",
        lambda trunk, filter_fn: trunk.load_state_dict(network.state_dict()),
    )
    yield network


def pyramid_of(height: int, width: int) -> list[Tensor]:
    """Random maps before each pooling, and the last one pooled."""
    maps = [
        torch.randn(2, channels, height >> level, width >> level, dtype=torch.float64)
        for level, channels in enumerate(WIDTHS[:5])
    ]
    return [*maps, F.max_pool2d(maps[-1], 2)]


@pytest.mark.parametrize("size", [(32, 32), (64, 160)])
def test_logits_are_sums_of_scores_at_three_strides(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head, maps = narrow().eval().double(), pyramid_of(*size)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.1)
    # The definition: scores where VGG would pool, doubled with shared borders, and added.
    pooled = [F.max_pool2d(feature, 2) for feature in maps[:5]]
    wide = F.relu(head.fc7(F.relu(head.fc6(pooled[4]))))
    scores = head.classifier_pool4(pooled[3]) + transposed(
        head.classifier(wide), head.upsample_pool5.weight
    )
    scores = head.classifier_pool3(pooled[2]) + transposed(scores, head.upsample_pool4.weight)
    logits = head(maps)
    assert logits.shape == (2, 5, size[0] // 8, size[1] // 8)
    torch.testing.assert_close(logits, scores)


def transposed(scores: Tensor, kernel: Tensor) -> Tensor:
    """Each score paints its 4x4 kernel around it, in steps of two pixels."""
    batch, _, height, width = scores.shape
    canvas = scores.new_zeros(batch, kernel.shape[1], 2 * height + 2, 2 * width + 2)
    for row in range(height):
        for column in range(width):
            paint = torch.einsum("bk,kcij->bcij", scores[:, :, row, column], kernel)
            canvas[..., 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += paint
    return canvas[..., 1:-1, 1:-1]


def test_upsampling_begins_bilinear_and_class_by_class() -> None:
    scores = torch.rand(1, 5, 6, 7)
    for layer in (narrow().upsample_pool5, narrow().upsample_pool4):
        doubled = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
        inner = (..., slice(1, -1), slice(1, -1))  # beyond the border it takes zeros
        torch.testing.assert_close(layer(scores)[inner], doubled[inner])


def test_scores_begin_at_zero_and_learn() -> None:
    head, maps = narrow().double(), pyramid_of(32, 64)
    logits = head(maps)
    assert not logits.any()
    F.cross_entropy(logits, torch.randint(0, 5, logits[:, 0].shape)).backward()
    for layer in (head.classifier, head.classifier_pool4, head.classifier_pool3):
        assert layer.weight.grad.any()


def test_wide_layers_are_vggs_classifier() -> None:
    """In the middle of a 7x7 map they see what ImageNet's classifier sees."""
    torch.manual_seed(0)
    head, classifier = narrow().eval().double(), ConvMlp(8, 12, 7).double()
    head.load_classifier(
        {f"pre_logits.{key}": value for key, value in classifier.state_dict().items()}, source="-"
    )
    maps = pyramid_of(224, 224)
    wide = F.relu(head.fc7(F.relu(head.fc6(maps[5]))))
    torch.testing.assert_close(wide[..., 3:4, 3:4], classifier.eval()(maps[5]))


@pytest.mark.parametrize("local", [True, False])
def test_pretrained_vgg_hands_over_its_classifier(
    published: VGG, tmp_path: Path, local: bool
) -> None:
    torch.save(published.state_dict(), tmp_path / "vgg.pth")
    asked = {"weights": str(tmp_path / "vgg.pth")} if local else {"pretrained": True}
    segmenter = build_segmenter(
        name="vgg16", head=lambda *shape: FCN8sHead(*shape, channels=12), num_classes=5, **asked
    )
    for ours, theirs in [
        (segmenter.head.fc6, published.pre_logits.fc1),
        (segmenter.head.fc7, published.pre_logits.fc2),
        (segmenter.backbone.trunk.features, published.features),
    ]:
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert segmenter(torch.rand(2, 3, 65, 97)).shape == (2, 5, 65, 97)


def test_random_vgg_hands_over_nothing(published: VGG) -> None:
    segmenter = build_segmenter(
        name="vgg16", head=lambda *shape: FCN8sHead(*shape, channels=12), num_classes=5
    )
    assert not torch.equal(segmenter.head.fc6.weight, published.pre_logits.fc1.weight)


def test_weights_without_the_classifier_are_refused(published: VGG, tmp_path: Path) -> None:
    trunk = {k: v for k, v in published.state_dict().items() if k.startswith("features")}
    torch.save(trunk, tmp_path / "vgg.pth")
    with pytest.raises(ConfigError, match=r"got .*vgg\.pth without pre_logits\.fc1"):
        build_segmenter(
            name="vgg16", head=FCN8sHead, num_classes=5, weights=str(tmp_path / "vgg.pth")
        )


def test_torchvisions_names_of_the_classifier_are_known(tmp_path: Path) -> None:
    """Its linear layers are timm's convolutions."""
    file = {"classifier.0.weight": torch.rand(2, 512 * 49), "classifier.3.bias": torch.rand(2)}
    torch.save(file, tmp_path / "vgg16.pth")
    tensors = classifier_tensors("vgg16", str(tmp_path / "vgg16.pth"))
    assert tensors["pre_logits.fc1.weight"].shape == (2, 512, 7, 7)
    torch.testing.assert_close(tensors["pre_logits.fc2.bias"], file["classifier.3.bias"])


def test_other_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \[64, 128\]; choose backbone=vgg16_fcn8s"):
        FCN8sHead((64, 128), 5)
