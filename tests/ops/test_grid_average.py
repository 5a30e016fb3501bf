import pytest
import torch
import torch.nn.functional as F

from sfseg.ops.grid_average import grid_average


@pytest.mark.parametrize("grid", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 7), (13, 32)])
def test_averages_are_those_of_torch(grid: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(grid_average(x, grid), F.adaptive_avg_pool2d(x, grid))


def test_windows_of_a_constant_map_are_the_constant() -> None:
    x = torch.full((1, 1, 11, 17), 3.0, dtype=torch.float64)
    assert torch.allclose(grid_average(x, 6), x.new_full((1, 1, 6, 6), 3.0))
