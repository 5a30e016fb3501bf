"""Points of masks: their values, and where they are drawn."""

import pytest
import torch

from sfseg.ops.mask_points import sample, uncertain_points


def test_a_point_at_a_cells_centre_has_its_value() -> None:
    maps = torch.arange(24, dtype=torch.float64).view(1, 2, 3, 4)
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    centres = torch.stack([(columns + 0.5) / 4, (rows + 0.5) / 3], dim=-1).view(1, 12, 2).double()
    for mode in ("bilinear", "nearest"):
        torch.testing.assert_close(sample(maps, centres, mode), maps.flatten(2))
    between = torch.tensor([[[2 / 4, 0.5 / 3]]], dtype=torch.float64)
    assert sample(maps, between)[0, :, 0].tolist() == pytest.approx([1.5, 13.5])


def test_most_points_are_where_logits_are_near_zero() -> None:
    torch.manual_seed(0)
    # Zero along the middle column, large on both sides.
    ramp = torch.linspace(-8, 8, 32).expand(2, 16, 32)
    points = uncertain_points(ramp, 400, oversample=3.0, uncertain_share=0.75)
    assert points.shape == (2, 400, 2)
    assert bool((points >= 0).all()) and bool((points < 1).all())
    chosen, anywhere = points[:, :300, 0], points[:, 300:, 0]
    # 300 of 1200 that are drawn: the nearest quarter, but for the border, where zeros mix in.
    assert float((chosen - 0.5).abs().quantile(0.9)) < 0.14
    assert float((anywhere - 0.5).abs().max()) > 0.4


def test_no_masks_have_no_points() -> None:
    points = uncertain_points(torch.zeros(0, 4, 4), 8, oversample=3.0, uncertain_share=0.75)
    assert points.shape == (0, 8, 2)
    assert sample(torch.zeros(0, 1, 4, 4), points).shape == (0, 1, 8)
