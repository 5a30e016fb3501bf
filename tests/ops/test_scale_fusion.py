"""Fusion of two resolutions against loops over cells, and means of windows against loops."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from sfseg.ops.scale_fusion import corners, fused, mean_of_windows

DOUBLE = {"dtype": torch.float64}


def random(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def enlarged(cells, factor):
    """Bilinear, by its definition: borders stay, centres are at (k + 1/2) factor - 1/2."""
    rows, columns = len(cells) * factor, len(cells[0]) * factor
    result = torch.empty(rows, columns, **DOUBLE)
    for y in range(rows):
        for x in range(columns):
            total = 0.0
            places = [(p + 0.5) / factor - 0.5 for p in (y, x)]
            for r, row in enumerate(cells):
                for c, value in enumerate(row):
                    near = []
                    for place, k, last in zip(
                        places, (r, c), (len(cells) - 1, len(row) - 1), strict=True
                    ):
                        near.append(max(0.0, 1 - abs(min(max(place, 0), last) - k)))
                    total += near[0] * near[1] * float(value)
            result[y, x] = total
    return result


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_fusion_by_hand(factor, channels):
    """The attention is masked in its own cells, then enlarged, over a detail that is 0 outside."""
    context, attention = random(1, 2, 4, 5), random(1, channels, 4, 5, seed=1)
    detail = random(1, 2, 2 * factor, 3 * factor, seed=2)
    found = fused(context, attention, detail, factor=factor, corner=(factor, 2 * factor))
    for k in range(2):
        masked, rest = torch.zeros(4, 5, **DOUBLE), torch.empty(4, 5, **DOUBLE)
        for y in range(4):
            for x in range(5):
                if 1 <= y < 3 and 2 <= x < 5:
                    masked[y, x] = attention[0, k % channels, y, x]
                rest[y, x] = (1 - masked[y, x]) * context[0, k, y, x]
        weight, expected = enlarged(masked, factor), enlarged(rest, factor)
        for y in range(2 * factor):
            for x in range(3 * factor):
                at = (y + factor, x + 2 * factor)
                expected[at] += weight[at] * detail[0, k, y, x]
        torch.testing.assert_close(found[0, k], expected)


def test_full_attention_everywhere_is_the_detail():
    context, detail = random(2, 3, 4, 6), random(2, 3, 8, 12, seed=1)
    found = fused(context, torch.ones(1, 1, 4, 6, **DOUBLE), detail, factor=2)
    torch.testing.assert_close(found, detail)


@pytest.mark.parametrize("corner", [(0, 0), (2, 4)])
def test_no_attention_is_the_enlarged_context(corner):
    context, detail = random(2, 3, 4, 6), random(2, 3, 4, 6, seed=1)
    found = fused(context, torch.zeros(1, 1, 4, 6, **DOUBLE), detail, factor=2, corner=corner)
    expected = F.interpolate(context, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [(8, 8), (16, 8), (12, 20), (18, 10)])
def test_windows_overlap_by_half_and_cover_all(size):
    begins = list(corners(size, (8, 8)))
    for length, places in zip(size, zip(*begins, strict=True), strict=True):
        steps = sorted(set(places))
        assert steps[0] == 0 and steps[-1] == length - 8
        assert all(0 < b - a <= 4 for a, b in pairwise(steps))
    assert len(begins) == len(set(begins))


def test_hrdas_crop_has_nine_windows():
    assert list(corners((1024, 1024), (512, 512))) == [
        (y, x) for y in (0, 256, 512) for x in (0, 256, 512)
    ]


def test_mean_of_windows_by_hand():
    begins = list(corners((6, 7), (4, 4)))
    windows = [random(2, 3, 4, 4, seed=k) for k in range(len(begins))]
    found = mean_of_windows(windows, begins, (6, 7))
    for y in range(6):
        for x in range(7):
            here = [
                w[..., y - top, x - left]
                for w, (top, left) in zip(windows, begins, strict=True)
                if 0 <= y - top < 4 and 0 <= x - left < 4
            ]
            torch.testing.assert_close(found[..., y, x], torch.stack(here).mean(0))
