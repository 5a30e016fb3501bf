import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.networks.build import build_segmenter
from sfseg.networks.heads.segnet import SegNetHead

WIDTHS = (4, 6, 8, 10, 10, 10)


def convolutions(module: nn.Module) -> list[tuple[int, int]]:
    return [
        (conv.in_channels, conv.out_channels)
        for conv in module.modules()
        if isinstance(conv, nn.Conv2d)
    ]


def test_decoder_mirrors_the_encoder() -> None:
    with torch.device("meta"):
        segmenter = build_segmenter(name="vgg16_bn", head=SegNetHead, num_classes=19)
    encoder = convolutions(segmenter.backbone)
    stages = [convolutions(stage) for stage in reversed(segmenter.head.stages)]
    decoder = [*(conv for stage in stages for conv in stage), (64, 19)]
    assert convolutions(segmenter.head.classifier) == [decoder[-1]]
    assert len(encoder) == len(decoder) == 13
    mirrored = [(after, before) for before, after in reversed(encoder)]
    assert decoder[:-1] == mirrored[:-1]


def test_values_return_to_where_they_were_pooled() -> None:
    """Five poolings and unpoolings, with stages that change nothing, leave the maxima."""
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 96)
    maps = [image]
    for _ in range(5):
        maps.append(F.max_pool2d(maps[-1], 2))
    head = SegNetHead((3,) * 6, 3)
    head.stages, head.classifier = nn.ModuleList(nn.Identity() for _ in range(5)), nn.Identity()
    survivors = image.amax(dim=(2, 3), keepdim=True)
    decoded = head(maps)
    for row in range(0, 64, 32):
        for column in range(0, 96, 32):
            square = (..., slice(row, row + 32), slice(column, column + 32))
            largest = image[square].amax(dim=(2, 3), keepdim=True)
            torch.testing.assert_close(
                decoded[square], torch.where(image[square] == largest, image[square], 0.0)
            )
    assert (decoded.amax(dim=(2, 3), keepdim=True) == survivors).all()


def test_forward_equals_torchs_unpooling() -> None:
    torch.manual_seed(0)
    head = SegNetHead(WIDTHS, 5, depths=(1, 2, 1, 2, 1)).eval().double()
    maps = [
        torch.randn(2, width, 64 >> level, 96 >> level).double()
        for level, width in enumerate(WIDTHS[:5])
    ]
    pooled = [F.max_pool2d(feature, 2, return_indices=True) for feature in maps]
    x = pooled[-1][0]
    for stage, (_, indices) in zip(reversed(head.stages), reversed(pooled), strict=True):
        x = stage(F.max_unpool2d(x, indices, 2))
    logits = head([*maps, pooled[-1][0]])
    assert logits.shape == (2, 5, 64, 96)
    torch.testing.assert_close(logits, head.classifier(x))


def test_gradient_reaches_the_encoder_through_the_last_map() -> None:
    features = [
        torch.randn(2, width, 32 >> level, 32 >> level, requires_grad=True)
        for level, width in enumerate(WIDTHS)
    ]
    SegNetHead(WIDTHS, 5, depths=(1,) * 5)(features).square().sum().backward()
    assert [feature.grad is not None for feature in features] == [False] * 5 + [True]


def test_it_runs_where_algorithms_must_be_deterministic() -> None:
    head = SegNetHead(WIDTHS, 5, depths=(1,) * 5)
    features: list[Tensor] = [
        torch.randn(2, width, 32 >> level, 32 >> level) for level, width in enumerate(WIDTHS)
    ]
    torch.use_deterministic_algorithms(True)
    try:
        head(features).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (65, 97)])
def test_any_size(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        segmenter = build_segmenter(name="vgg16_bn", head=SegNetHead, num_classes=5)
        assert segmenter.eval()(torch.rand(1, 3, *size)).shape == (1, 5, *size)


def test_other_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"VGG's six maps .* choose backbone=vgg16_segnet"):
        SegNetHead((64, 128, 320, 512), 5)


@pytest.mark.parametrize("depths", [(), (2, 2, 3, 3), (2, 2, 3, 3, 0)])
def test_every_stage_needs_a_depth(depths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="depths must be five positive integers"):
        SegNetHead(WIDTHS, 5, depths=depths)
