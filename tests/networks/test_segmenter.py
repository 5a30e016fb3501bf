import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.backbones.mit import MixTransformer
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from sfseg.ops.inference import Inference


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


def test_aligned_corners_keep_the_centres_of_the_corner_cells() -> None:
    segmenter = Segmenter(
        CellMean(), FirstMap(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), align_corners=True
    )
    ramp = torch.linspace(0, 1, 24).expand(1, 3, 16, 24)
    # The means of the first and last four of 24 values, and a straight line between them.
    expected = torch.linspace(1.5 / 23, 21.5 / 23, 24).expand(1, 3, 16, 24)
    torch.testing.assert_close(segmenter(ramp), expected)


class SecondMap(nn.Module):
    """Its own kind of head: twice the only map it gets."""

    num_classes = 3

    def forward(self, features: list[Tensor]) -> Tensor:
        (feature,) = features
        return 2 * feature


class TwoLevels(CellMean):
    channels = (3, 3)
    strides = (4, 8)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(image, side) for side in self.strides]


@pytest.mark.parametrize(("level", "side"), [(0, 4), (1, 8), (-2, 4), (-1, 8)])
def test_second_head_sees_its_level(level: int, side: int) -> None:
    segmenter = Segmenter(
        TwoLevels(8), FirstMap(), aux_head=SecondMap(), aux_level=level, std=(1.0, 1.0, 1.0)
    )
    image = torch.rand(2, 3, 15, 21)
    main, auxiliary = segmenter.forward_levels(image)
    torch.testing.assert_close(main, segmenter(image))
    assert main.shape == auxiliary.shape == image.shape
    padded = nn.functional.pad(segmenter.normalize(image), (0, 3, 0, 1))
    cells = 2 * nn.functional.avg_pool2d(padded, side)
    expected = nn.functional.interpolate(cells, (16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(auxiliary, expected[..., :15, :21])


def test_second_head_trains_with_two_levels_only(segmenter: Segmenter) -> None:
    aux = DAFormerHead((64,), 5, channels=8, dilations=(1,))
    two = Segmenter(segmenter.backbone, segmenter.head, aux_head=aux)
    assert {name.split(".")[0] for name in two.state_dict()} == {"backbone", "head", "aux_head"}
    image = torch.rand(2, 3, 32, 32)
    two(image).sum().backward()
    assert all(parameter.grad is None for parameter in aux.parameters())
    sum(logits.sum() for logits in two.forward_levels(image)).backward()
    assert all(parameter.grad is not None for parameter in aux.parameters())


def test_two_levels_need_a_second_head(segmenter: Segmenter) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.aux must be a head .* got null; choose"):
        segmenter.forward_levels(torch.rand(1, 3, 32, 32))


class NormalisedCells(CellMean):
    """Cells, normalised over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.norm(cell) for cell in super().forward(image)]


@pytest.mark.parametrize(
    ("policy", "affine_trains", "statistics_move"),
    [
        ("train", True, True),
        ("frozen_affine", False, True),
        ("frozen_statistics", True, False),
        ("frozen", False, False),
    ],
)
@pytest.mark.parametrize("again", [True, False])
def test_batch_norm_does_what_its_policy_says(
    policy: str, affine_trains: bool, statistics_move: bool, again: bool
) -> None:
    head = nn.Sequential(FirstMap(), nn.BatchNorm2d(3))
    head.num_classes = 3
    segmenter = Segmenter(NormalisedCells(), head, batch_norm=policy)
    if again:
        segmenter = copy.deepcopy(segmenter).eval().train()
    assert segmenter.training
    norm, plain = segmenter.backbone.norm, Segmenter(NormalisedCells(), head)
    assert list(segmenter.state_dict()) == list(plain.state_dict())
    image = torch.rand(2, 3, 8, 8)
    logits = segmenter(image)
    logits.square().mean().backward()
    assert (norm.weight.grad is not None) == (norm.bias.grad is not None) == affine_trains
    assert (norm.running_mean.abs().sum() > 0) == statistics_move
    # The head has its own: the policy is the backbone's.
    assert segmenter.head[1].weight.grad is not None
    assert segmenter.head[1].training


def test_frozen_statistics_normalise_in_training() -> None:
    segmenter = Segmenter(NormalisedCells(), FirstMap(), batch_norm="frozen_statistics")
    segmenter.backbone.norm.running_mean.fill_(0.25)
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(segmenter(image), copy.deepcopy(segmenter).eval()(image))


def test_batch_norm_policy_and_freezing_go_together() -> None:
    segmenter = Segmenter(NormalisedCells(), FirstMap(), batch_norm="frozen_affine")
    assert segmenter.train().backbone.norm.training
    segmenter.freeze("backbone").train()
    assert not segmenter.backbone.norm.training
    thawed = Segmenter(NormalisedCells(), FirstMap(), batch_norm="frozen").freeze("head").train()
    assert not thawed.backbone.norm.training
    assert not thawed.head.training
    assert thawed.backbone.training


def test_synchronised_batch_norm_keeps_the_policy() -> None:
    """Lightning replaces the layers after the segmenter is built."""
    segmenter = Segmenter(NormalisedCells(), FirstMap(), batch_norm="frozen")
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(segmenter).train()
    norm = synchronised.backbone.norm
    assert isinstance(norm, nn.SyncBatchNorm)
    assert not norm.training
    assert not norm.weight.requires_grad


def test_batch_norm_policy_must_be_known_and_possible() -> None:
    with pytest.raises(ValueError, match=r"batch_norm must be one of train, .* got half"):
        Segmenter(NormalisedCells(), FirstMap(), batch_norm="half")
    with pytest.raises(ValueError, match=r"batch_norm must be train for .* got frozen_affine"):
        Segmenter(CellMean(), FirstMap(), batch_norm="frozen_affine")


def test_number_of_classes_is_the_heads(segmenter: Segmenter) -> None:
    assert segmenter.num_classes == 5


@pytest.mark.parametrize("size", [(32, 64), (33, 60), (40, 7), (65, 97), (68, 36)])
@pytest.mark.parametrize("kind", ["tiny", "mit", "cells"])
def test_padding_is_cut_off(kind: str, size: tuple[int, int]) -> None:
    """What remains of a map covers the image, with a cell for each stride that has begun."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "tiny": lambda: TinyTransformer(channels=(32, 32, 64, 64), depths=(1, 1, 1, 1)),
        "mit": lambda: MixTransformer(head_dim=8, depths=(1, 1, 1, 1)),
        "cells": lambda: CellMean(stride_multiple=32),
    }
    network = Segmenter(kinds[kind](), FirstMap())
    image = torch.rand(1, 3, *size)
    for maps, stride in zip(network.features(image), network.backbone.strides, strict=True):
        shown = network.without_padding(maps, image)
        assert shown.shape[-2:] == tuple(-(-side // stride) for side in size)
        assert torch.equal(shown, maps[..., : shown.shape[-2], : shown.shape[-1]])


@pytest.mark.parametrize("size", [(32, 64), (33, 60), (40, 7), (61, 98)])
def test_labels_of_cells_are_those_at_their_centres(size: tuple[int, int]) -> None:
    """By hand, of a map that shows where each cell is: its centre is the corner of a third pixel.

    Labels taken every stride-th pixel, from the first one on, would be those of corners.
    """
    network = Segmenter(CellMean(stride_multiple=32), FirstMap())
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    image = torch.zeros(1, 3, *size)
    (maps,) = network.features(image)
    for label, axis in ((rows, 0), (columns, 1)):
        found = network.at_cells(label[None], maps, outside=-1)
        assert found.shape[-2:] == maps.shape[-2:]
        for cell, seen in enumerate(found[0].select(1 - axis, 0)):
            centre = 4 * cell + 2
            assert int(seen) == (centre if centre < size[axis] else -1)
    valid = (rows < size[0] - 5) & (columns < size[1] // 2)
    cells = network.cells_of_pictures(valid[None], maps)
    assert cells is not None and cells.shape == network.without_padding(maps, image)[0, :1].shape
    expected = valid[2::4, 2::4]
    assert torch.equal(cells[0, : expected.shape[0], : expected.shape[1]], expected)
    assert int(cells.sum()) == int(expected.sum())
    assert network.cells_of_pictures(None, maps) is None


def test_scores_of_cells_stand_on_their_pixels() -> None:
    """Between centres bilinear, and of the padded image: 6 x 6 pixels are 8 x 8 with padding."""
    network, image = Segmenter(CellMean(stride_multiple=8), FirstMap()), torch.rand(1, 3, 6, 6)
    scores = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).view(1, 1, 2, 2)
    place = ((torch.arange(6) - 1.5) / 4).clamp(0, 1)  # in cells from the first centre
    expected = 8 * place[:, None] + 4 * place
    torch.testing.assert_close(network.enlarge(scores, image)[0, 0], expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_of_a_view_stand_on_the_pixels_of_the_image(align_corners: bool) -> None:
    """In one step: a ramp over the padded view is one over the image, cut where padding begins."""
    network = Segmenter(CellMean(stride_multiple=8), FirstMap())
    # Of 12 x 20 pixels, a view of twice the size needs no padding; one of half the size is padded
    # to 8 x 16, which are 16 x 32 pixels of the image.
    for view, cells, shown in (((24, 40), (6, 10), (12, 20)), ((6, 10), (2, 4), (16, 32))):
        scores = torch.rand(1, 3, *cells)
        expected = torch.nn.functional.interpolate(
            scores, shown, mode="bilinear", align_corners=align_corners
        )
        found = network.enlarge_view(scores, view, (12, 20), align_corners=align_corners)
        torch.testing.assert_close(found, expected[..., :12, :20])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_evaluated_at_any_scale(segmenter: Segmenter, dtype: torch.dtype) -> None:
    """Rescaled images are floats, whatever the network's weights are."""
    image = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    views = Inference(scales=(0.5, 1.0), flip=True)
    segmenter.eval()
    with torch.no_grad():
        exact = views(segmenter, image)
        half = views(segmenter.to(dtype), image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.exp(), exact.exp(), rtol=0, atol=0.02)
