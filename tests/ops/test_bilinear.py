import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from sfseg.ops.bilinear import by_gathering, gathered, sample


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (1, 1)])
def test_gathered_samples_are_those_of_torch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    # Some lie outside, some by more than a cell.
    places = (4 * torch.rand(2, 6, 4, 2, dtype=torch.float64) - 2).requires_grad_()
    expected = F.grid_sample(maps, places, align_corners=False)
    found = gathered(maps, places)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    theirs = torch.autograd.grad((expected * weight).sum(), (maps, places))
    ours = torch.autograd.grad((found * weight).sum(), (maps, places))
    torch.testing.assert_close(ours, theirs)


def test_borders_and_centres_of_cells() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    places = torch.tensor([[[[-0.5, -0.5], [0.5, 0.5], [-1.0, -0.5], [0.0, 0.0], [3.0, 0.0]]]])
    assert gathered(maps, places).flatten().tolist() == [1.0, 4.0, 0.5, 2.5, 0.0]


def test_the_way_is_chosen_for_a_block() -> None:
    maps, places = torch.randn(1, 2, 3, 4), torch.rand(1, 2, 2, 2)

    def operations() -> str:
        return make_fx(sample)(maps, places).code

    assert "grid_sampler" in operations()
    with by_gathering():
        assert "grid_sampler" not in operations() and "gather" in operations()
    assert "grid_sampler" in operations()
