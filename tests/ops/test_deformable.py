import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg.ops.deformable import cell_centres, deformable_attention

SIZES = ((5, 7), (3, 4), (2, 1))


def random_inputs(
    sizes: tuple[tuple[int, int], ...] = SIZES,
    *,
    count: int = 2,
    channels: int = 3,
    points: int = 2,
    queries: int = 6,
    dtype: torch.dtype = torch.float64,
) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    values = [torch.randn(count, channels, *size, dtype=dtype) for size in sizes]
    # Some lie outside of the maps.
    locations = 2.6 * torch.rand(count, len(sizes), points, 2, queries, dtype=dtype) - 1.3
    weights = torch.randn(count, len(sizes), points, queries, dtype=dtype)
    return values, locations, weights


def bilinear(value: Tensor, x: float, y: float) -> Tensor:
    """One sample of a (C, h, w) map, whose borders are -1 and 1, from the four cells around it."""
    height, width = value.shape[1:]
    column, row = (x + 1) / 2 * width - 0.5, (y + 1) / 2 * height - 0.5
    sample = torch.zeros(len(value), dtype=value.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                sample += (1 - abs(row - i)) * (1 - abs(column - j)) * value[:, i, j]
    return sample


def naive(values: list[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    count, levels, points, _, queries = locations.shape
    result = torch.zeros(count, values[0].shape[1], queries, dtype=values[0].dtype)
    for n in range(count):
        for query in range(queries):
            for level in range(levels):
                for point in range(points):
                    x, y = locations[n, level, point, :, query].tolist()
                    sample = bilinear(values[level][n], x, y)
                    result[n, :, query] += weights[n, level, point, query] * sample
    return result


@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1], ((1, 1),)])
def test_it_equals_its_definition(sizes: tuple[tuple[int, int], ...]) -> None:
    inputs = random_inputs(sizes)
    torch.testing.assert_close(deformable_attention(*inputs), naive(*inputs))


def test_gradients_are_those_of_the_function() -> None:
    values, locations, weights = random_inputs(SIZES[1:], count=1, channels=2, queries=3)

    def attend(locations: Tensor, weights: Tensor, *values: Tensor) -> Tensor:
        return deformable_attention(values, locations, weights)

    inputs = [tensor.requires_grad_() for tensor in (locations, weights, *values)]
    assert torch.autograd.gradcheck(attend, inputs)


def test_heads_and_images_do_not_mix() -> None:
    values, locations, weights = random_inputs()
    both = deformable_attention(values, locations, weights)
    for n in range(2):
        alone = deformable_attention(
            [value[n : n + 1] for value in values], locations[n : n + 1], weights[n : n + 1]
        )
        torch.testing.assert_close(both[n : n + 1], alone)


def test_half_precision_is_sampled_in_single() -> None:
    values, locations, weights = random_inputs(dtype=torch.bfloat16)
    expected = deformable_attention(
        [value.float() for value in values], locations.float(), weights.float()
    )
    attended = deformable_attention(values, locations, weights)
    assert attended.dtype == torch.float32
    torch.testing.assert_close(attended, expected, rtol=0, atol=0)
    mixed = deformable_attention(values, locations.float(), weights)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_locations(dtype: torch.dtype) -> None:
    inputs = random_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        attended = deformable_attention(*inputs)
    torch.testing.assert_close(attended, deformable_attention(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize(("size", "scale"), [((6, 10), 2.0), ((3, 5), 1.0), ((2, 3), 0.5)])
def test_cells_know_their_place_on_other_maps(size: tuple[int, int], scale: float) -> None:
    """On a map of coordinates, what is sampled is the place: away from the border all of it."""
    asking = (3, 5)
    rows, columns = (torch.arange(side) + 0.5 for side in size)
    value = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    places = cell_centres(asking, size, scale)
    sampled = deformable_attention([value], places[None, None, None], torch.ones(1, 1, 1, 15))
    own = torch.meshgrid(*((torch.arange(side) + 0.5) * scale for side in asking), indexing="ij")
    inside = (own[0] > 0.5) & (own[0] < size[0] - 0.5) & (own[1] > 0.5) & (own[1] < size[1] - 0.5)
    assert inside.any()
    place = sampled.view(2, *asking)
    torch.testing.assert_close(place[:, inside], torch.stack(own)[:, inside])


def test_own_cells_return_the_map() -> None:
    value = torch.randn(1, 4, 5, 3)
    places = cell_centres((5, 3), (5, 3), 1.0)[None, None, None]
    same = deformable_attention([value], places, torch.ones(1, 1, 1, 15))
    torch.testing.assert_close(same.view_as(value), value)


def test_cells_of_a_coarse_map_see_the_middle_of_four() -> None:
    value = torch.randn(1, 4, 6, 8)
    places = cell_centres((3, 4), (6, 8), 2.0)[None, None, None]
    means = deformable_attention([value], places, torch.ones(1, 1, 1, 12))
    torch.testing.assert_close(means.view(1, 4, 3, 4), F.avg_pool2d(value, 2))
