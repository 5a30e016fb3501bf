"""Pixels that are no picture: what makes the images of a batch one size, and how to leave it out.

Pictures lie in the top left corner of their image, padding below and to their right. ``valid``
(B, H, W) says which pixels belong to pictures; None says that all do, and then every function here
hands back what it was given.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Integer, Shaped
from torch import Tensor

from sfseg.modes import is_exporting
from sfseg.types import IGNORE, Batch

HEIGHT, WIDTH = 6, 7
"""Places in a geometry, see :class:`sfseg.data.geometry.Geometry`."""


def first_cells(
    values: Shaped[Tensor, "..."], size: Sequence[int], dim: int = -2
) -> Shaped[Tensor, "..."]:
    """The first rows and columns, which leaves out what was added below and to the right.

    Args:
        values: rows and columns are two neighbouring dimensions.
        size: how many of each.
        dim: which dimension the rows are, counted from the last.
    """
    rows, columns = (n - side for n, side in zip(size, values.shape[dim:], strict=False))
    if is_exporting():
        # A slice would be recorded with whether the example needs one, as if all images did.
        return F.pad(values, (*(0, 0) * (-2 - dim), 0, columns, 0, rows))
    return values.narrow(dim, 0, size[0]).narrow(dim + 1, 0, size[1])


def valid_pixels(batch: Batch) -> Bool[Tensor, "B H W"] | None:
    """The pixels of a training batch that belong to pictures; None where no image is padded."""
    return shown_pixels(batch["geometry"], batch["image"])


def shown_pixels(
    geometry: Integer[Tensor, "B 9"], values: Shaped[Tensor, "B ..."]
) -> Bool[Tensor, "B H W"] | None:
    """The pixels of maps (B, ..., H, W) at which crops show something; None where all do."""
    height, width = values.shape[-2:]
    tall, wide = geometry[:, HEIGHT, None], geometry[:, WIDTH, None]
    if not bool(((tall < height) | (wide < width)).any()):
        return None
    rows = torch.arange(height, device=geometry.device) < tall
    columns = torch.arange(width, device=geometry.device) < wide
    return (rows[:, :, None] & columns[:, None]).to(values.device)


def each_picture(
    values: Shaped[Tensor, "B ..."], valid: Bool[Tensor, "B h w"] | None
) -> list[Tensor]:
    """The values of every picture by itself, (1, ..., y, x); all at once where none is padded.

    Args:
        values: maps of the images' size, (B, ..., h, w).
        valid: see above.
    """
    if valid is None:
        return [values]
    return [
        own[..., :rows, :columns]
        for own, (rows, columns) in zip(torch.split(values, 1), extents(valid), strict=True)
    ]


def of_pictures(values: Shaped[Tensor, "B ..."], valid: Bool[Tensor, "B h w"] | None) -> Tensor:
    """The values of all pictures' pixels, in one row: (1, ..., 1, N) of (B, ..., h, w).

    For whatever looks at each pixel by itself, and at their mean.

    Args:
        values: maps of the images' size, (B, ..., h, w).
        valid: see above.
    """
    if valid is None:
        return values
    # With channels last in memory, as heads lay their logits out.
    rows = [own[0].movedim((-2, -1), (0, 1)).flatten(0, 1) for own in each_picture(values, valid)]
    return torch.cat(rows).movedim(0, -1)[None, ..., None, :]


def continued(
    values: Shaped[Tensor, "B C h w"], valid: Bool[Tensor, "B h w"] | None
) -> Shaped[Tensor, "B C h w"]:
    """Maps whose padding is what borders it: for what looks at a pixel's neighbours.

    Resizing or blurring them is, for the pictures, as if they were alone.

    Args:
        values: of floating point.
        valid: see above.
    """
    if valid is None:
        return values
    height, width = values.shape[-2:]
    grown = [
        F.pad(own, (0, width - own.shape[-1], 0, height - own.shape[-2]), mode="replicate")
        for own in each_picture(values, valid)
    ]
    return torch.cat(grown)


def ignore_padding(
    label: Shaped[Tensor, "B H W"], valid: Bool[Tensor, "B H W"] | None
) -> Shaped[Tensor, "B H W"]:
    """Labels with IGNORE in padding."""
    return label if valid is None else label.masked_fill(~valid, IGNORE)


def shared_part(
    values: Shaped[Tensor, "B ..."], valid: Bool[Tensor, "B h w"] | None
) -> Shaped[Tensor, "B ..."]:
    """The part of maps (B, ..., h, w) that all pictures have, from the top left corner."""
    if valid is None:
        return values
    heights, widths = zip(*extents(valid), strict=True)
    return values[..., : min(heights), : min(widths)]


def valid_cells(
    valid: Bool[Tensor, "B H W"],
    grid: tuple[int, int],
    *,
    padded: tuple[int, int] | None = None,
) -> Bool[Tensor, "B h w"]:
    """Cells that belong to pictures: whose centre does, and the first one of each image.

    A grid may have a single cell. Arguments are those of :func:`at_centres`.
    """
    cells = at_centres(valid, grid, padded=padded)
    cells[:, 0, 0] = True
    return cells


def at_centres(
    label: Shaped[Tensor, "B H W"],
    grid: tuple[int, int],
    *,
    padded: tuple[int, int] | None = None,
    outside: int = 0,
) -> Shaped[Tensor, "B h w"]:
    """What the centres of a grid's cells lie in, for a grid that covers a map.

    A centre between two pixels belongs to the later one.

    Args:
        label: ids or, as numbers, whatever else has no values in between.
        grid: rows and columns of cells.
        padded: height and width that the grid covers, where it reaches past the map below and to
            the right.
        outside: of cells whose centre is not in the map.
    """
    height, width = label.shape[-2:]
    rows, columns = (
        (2 * torch.arange(cells, device=label.device) + 1) * side // (2 * cells)
        for cells, side in zip(grid, padded or (height, width), strict=True)
    )
    is_inside = (rows < height)[:, None] & (columns < width)
    seen = label[:, rows.clamp_max(height - 1)[:, None], columns.clamp_max(width - 1)]
    return seen.masked_fill(~is_inside, outside)


def cells_before(place: int, cells: int, side: int) -> int:
    """How many of an axis's cells belong to a picture, as in :func:`valid_cells`.

    Args:
        place: where the picture ends: its height or width in pixels.
        cells: of the axis.
        side: pixels that they cover.
    """
    # Centres are at (2 k + 1) side / (2 cells).
    return min(cells, max(1, -((side - 2 * cells * place) // (2 * side))))


def extents(valid: Bool[Tensor, "B h w"]) -> list[tuple[int, int]]:
    """Rows and columns of every picture."""
    heights, widths = valid.any(dim=2).sum(dim=1), valid.any(dim=1).sum(dim=1)
    return list(zip(heights.tolist(), widths.tolist(), strict=True))
