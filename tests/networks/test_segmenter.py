import copy

import pytest
import torch
from torch import Tensor, nn

from sfseg.networks.heads import DAFormerHead
from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from sfseg.networks.tiny import TinyTransformer


class CellMean(nn.Module):
    """The mean pixel of every 4x4 cell; a backbone whose output can be written down."""

    channels = (3,)
    strides = (4,)

    def __init__(self, stride_multiple: int = 4) -> None:
        super().__init__()
        self.stride_multiple = stride_multiple

    def forward(self, image: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(image, 4)]


class FirstMap(nn.Module):
    num_classes = 3

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[0]


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    backbone = TinyTransformer(channels=(32, 32, 64, 64), depths=(1, 1, 1, 1), drop_path_rate=0.5)
    return Segmenter(backbone, DAFormerHead(backbone.channels, 5, channels=16, dilations=(1, 2)))


def test_normalisation_is_imagenets() -> None:
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [
        (value / 255 - mean) / std
        for value, mean, std in zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    ]
    normalised = Segmenter(CellMean(), FirstMap()).normalize(image).flatten()
    torch.testing.assert_close(normalised, torch.tensor(expected))


def test_bytes_and_floats_are_the_same_image(segmenter: Segmenter) -> None:
    image = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    torch.testing.assert_close(segmenter.normalize(image), segmenter.normalize(image / 255))


def test_normalisation_is_no_weight(segmenter: Segmenter) -> None:
    assert not {"mean", "std"} & set(segmenter.state_dict())


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96), (65, 97)])
def test_logits_have_the_size_of_the_image(segmenter: Segmenter, size: tuple[int, int]) -> None:
    logits = segmenter.eval()(torch.rand(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


def test_feature_maps_have_the_announced_widths_and_strides(segmenter: Segmenter) -> None:
    backbone = segmenter.backbone
    maps = segmenter.features(torch.rand(1, 3, 65, 97))  # padded to 96x128
    assert [feature.shape[1:] for feature in maps] == [
        (width, 96 // stride, 128 // stride)
        for width, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize("stride_multiple", [4, 32])
def test_padding_leaves_logits_where_their_pixels_are(stride_multiple: int) -> None:
    """A linear ramp survives averaging and interpolation, a shift by one pixel would show."""
    segmenter = Segmenter(
        CellMean(stride_multiple), FirstMap(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    height, width = 33, 47
    rows = torch.linspace(0.1, 0.9, height)[:, None].expand(height, width)
    columns = torch.linspace(0.1, 0.9, width).expand(height, width)
    image = torch.stack([rows, columns, torch.ones(height, width)])[None]
    logits = segmenter(image)
    assert logits.shape == image.shape
    # The first two pixels are constant (half a cell), the last cell touches the padding.
    inner = (..., slice(2, 26), slice(2, 40))
    torch.testing.assert_close(logits[inner], image[inner])


def test_padding_has_the_mean_colour() -> None:
    segmenter = Segmenter(CellMean(), FirstMap())
    colour = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 5, 5)
    torch.testing.assert_close(segmenter(colour), torch.zeros(1, 3, 5, 5))


@pytest.mark.parametrize("by_name", [True, False])
def test_frozen_parts_get_no_gradient_and_stay_in_eval_mode(
    segmenter: Segmenter, by_name: bool
) -> None:
    segmenter.freeze("backbone" if by_name else segmenter.backbone).train()
    assert segmenter.training
    assert segmenter.head.training
    assert not any(module.training for module in segmenter.backbone.modules())
    segmenter(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is None for parameter in segmenter.backbone.parameters())
    assert all(parameter.grad is not None for parameter in segmenter.head.parameters())


def test_freezing_survives_a_copy(segmenter: Segmenter) -> None:
    teacher = copy.deepcopy(segmenter.freeze("backbone.stages.0")).train()
    assert not teacher.get_submodule("backbone.stages.0").training
    assert teacher.get_submodule("backbone.stages.1").training


def test_freezing_a_stranger_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match=r"parts must be submodules .* got Linear; give one of"):
        segmenter.freeze(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="got decoder; give one of backbone, head"):
        segmenter.freeze("decoder")


def test_number_of_classes_is_the_heads(segmenter: Segmenter) -> None:
    assert segmenter.num_classes == 5
