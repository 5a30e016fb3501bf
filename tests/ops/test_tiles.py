from itertools import pairwise

import pytest
import torch
from torch import nn

from sfseg.ops.inference import resize
from sfseg.ops.tiles import predict_tiles, tiling

SIZES = [(64, 64), (65, 64), (7, 5), (1, 9000), (9000, 1), (100, 3000), (333, 201), (700, 90)]


@pytest.mark.parametrize("size", SIZES)
def test_tiles_cover_each_pixel_once_with_a_margin(size: tuple[int, int]) -> None:
    most = 64 * 64
    rows, columns = tiling(size, most)
    for spans, length in ((rows, size[0]), (columns, size[1])):
        assert spans[0].first == 0 and spans[-1].last == length
        assert all(a.last == b.first for a, b in pairwise(spans))
        for span in spans:
            assert 0 <= span.start <= span.first < span.last <= span.stop <= length
            assert span.start == 0 or span.first - span.start >= 8
            assert span.stop == length or span.stop - span.last >= 8
    tall, wide = (max(span.stop - span.start for span in spans) for spans in (rows, columns))
    assert tall * wide <= most
    assert (len(rows) == len(columns) == 1) == (size[0] * size[1] <= most)


def test_a_tile_must_have_some_pixels() -> None:
    with pytest.raises(ValueError, match="at least 64 pixels, got 63"):
        tiling((100, 100), 63)


@pytest.mark.parametrize("full", [(70, 190), (140, 380), (35, 71), (333, 190)])
@pytest.mark.parametrize("most", [1000, 4000, 10**6])
def test_tiles_say_what_the_whole_picture_would(full: tuple[int, int], most: int) -> None:
    """Of a network that looks at three pixels, fewer than a margin has."""
    network = nn.Conv2d(3, 5, 3, padding=1)
    image = torch.rand(1, 3, 70, 190)
    with torch.inference_mode():
        label, confidence = predict_tiles(network, image, full, most)
        probability, expected = resize(network(image), full).softmax(dim=1).max(dim=1)
    assert label.shape == confidence.shape == full and label.dtype == torch.uint8
    assert (label == expected[0]).float().mean() > 0.999
    assert (confidence - probability[0] * 255).abs().max() < 0.6


def test_no_tile_is_larger_than_asked_for() -> None:
    seen = []

    def network(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.shape[-2] * image.shape[-1])
        return image

    predict_tiles(network, torch.zeros(1, 3, 200, 300), (200, 300), 5000)
    assert max(seen) <= 5000 and len(seen) > 12
