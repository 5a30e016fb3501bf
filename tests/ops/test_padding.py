"""Pictures of several sizes in one batch, against loops over pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sfseg.data.geometry import Geometry, resize_label
from sfseg.ops.padding import (
    at_centres,
    cells_before,
    continued,
    each_picture,
    first_cells,
    ignore_padding,
    of_pictures,
    shared_part,
    valid_cells,
    valid_pixels,
)
from sfseg.types import IGNORE

SIZES, CANVAS = ((3, 7), (5, 4), (1, 1)), (5, 7)


def batch(sizes=SIZES, canvas=CANVAS):
    return {
        "image": torch.zeros(len(sizes), 3, *canvas),
        "geometry": torch.tensor([Geometry(9, 9, 9, 9, 0, 0, *size, 1) for size in sizes]),
    }


def values(channels=2):
    random = torch.Generator().manual_seed(0)
    return torch.randn(len(SIZES), channels, *CANVAS, generator=random)


def test_valid_pixels_are_those_of_the_geometry():
    valid = valid_pixels(batch())
    for k, y, x in np.ndindex(*valid.shape):
        assert bool(valid[k, y, x]) == (y < SIZES[k][0] and x < SIZES[k][1])
    assert valid_pixels(batch([CANVAS] * 2)) is None


def test_pictures_are_cut_out():
    valid, maps = valid_pixels(batch()), values()
    parts = each_picture(maps, valid)
    for k, (height, width) in enumerate(SIZES):
        assert torch.equal(parts[k], maps[k : k + 1, :, :height, :width])
    rows = of_pictures(maps, valid)
    assert rows.shape == (1, 2, 1, sum(h * w for h, w in SIZES))
    assert torch.equal(rows[0, :, 0], torch.cat([p.flatten(2) for p in parts], dim=2)[0])
    ids = torch.arange(105).view(3, 5, 7)
    assert of_pictures(ids, valid).tolist() == [[ids[valid].tolist()]]
    assert torch.equal(shared_part(maps[:2], valid[:2]), maps[:2, :, :3, :4])
    assert torch.equal(ignore_padding(ids, valid) == IGNORE, ~valid)


def test_without_padding_everything_stays_as_it_is():
    maps = values()
    assert each_picture(maps, None)[0] is maps and of_pictures(maps, None) is maps
    assert continued(maps, None) is maps and shared_part(maps, None) is maps
    ids = torch.zeros(3, 5, 7, dtype=torch.uint8)
    assert ignore_padding(ids, None) is ids


def test_a_continued_picture_is_resized_as_if_it_were_alone():
    maps = values()
    grown = continued(maps, valid_pixels(batch()))
    larger = F.interpolate(grown, scale_factor=2, mode="bilinear")
    for k, (height, width) in enumerate(SIZES):
        alone = F.interpolate(maps[k : k + 1, :, :height, :width], scale_factor=2, mode="bilinear")
        torch.testing.assert_close(larger[k : k + 1, :, : 2 * height, : 2 * width], alone)


@pytest.mark.parametrize(
    ("size", "padded", "grid"),
    [((8, 12), None, (2, 3)), ((7, 9), (8, 12), (2, 3)), ((5, 6), (8, 8), (4, 4)),
     ((5, 7), None, (3, 3)), ((3, 4), None, (6, 12)), ((9, 9), (12, 12), (3, 3)),
     ((4, 4), (4, 4), (1, 1))],
)  # fmt: skip
def test_cells_show_what_lies_at_their_centres(size, padded, grid):
    label = torch.randint(0, 200, (2, *size), generator=torch.Generator().manual_seed(0))
    found = at_centres(label.to(torch.uint8), grid, padded=padded, outside=IGNORE)
    assert found.dtype == torch.uint8 and found.shape == (2, *grid)
    covered = padded or size
    for k, row, column in np.ndindex(*found.shape):
        y = int((row + 0.5) * covered[0] / grid[0])
        x = int((column + 0.5) * covered[1] / grid[1])
        inside = y < size[0] and x < size[1]
        assert found[k, row, column] == (label[k, y, x] if inside else IGNORE)
    if padded is None:  # as labels are resized in data
        expected = resize_label(label[0].to(torch.uint8).numpy(), grid)
        np.testing.assert_array_equal(found[0], expected)


def test_every_picture_has_a_cell():
    valid = valid_pixels(batch([(6, 6), (4, 3), (1, 1)], (6, 6)))
    cells = valid_cells(valid, (2, 2), padded=(8, 8))
    # Centres are at 2 and 6: the second lies in the padding of the network.
    assert cells.tolist() == [[[True, False], [False, False]]] * 3
    cells = valid_cells(valid, (3, 3))
    assert cells.sum(dim=(1, 2)).tolist() == [9, 2, 1]


@pytest.mark.parametrize("side", [1, 4, 6, 7, 16])
def test_cells_of_a_picture_are_counted(side):
    for cells in range(1, side + 3):
        for place in range(1, side + 1):
            valid = (torch.arange(side) < place)[None, :, None]
            expected = int(valid_cells(valid, (cells, 1)).sum())
            assert cells_before(place, cells, side) == expected


@pytest.mark.parametrize("size", [(4, 5), (3, 2)])
def test_first_cells_are_the_same_while_a_network_is_exported(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(2 * 4 * 5 * 3).view(2, 4, 5, 3).float()
    expected = rows[:, : size[0], : size[1]]
    for is_exporting in (False, True):
        monkeypatch.setattr("sfseg.ops.padding.is_exporting", lambda known=is_exporting: known)
        assert torch.equal(first_cells(rows, size, dim=-3), expected)
        maps = rows.permute(0, 3, 1, 2)
        assert torch.equal(first_cells(maps, size), expected.permute(0, 3, 1, 2))
