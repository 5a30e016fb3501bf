import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.networks.heads.upernet import UPerHead

WIDTHS = (6, 8, 10, 12)


def random_maps(batch: int = 2) -> list[Tensor]:
    """Of an image of 132x196: sizes that no grid and no doubling divides."""
    sizes = [(33, 49), (17, 25), (9, 13), (5, 7)]
    return [torch.randn(batch, width, *size) for width, size in zip(WIDTHS, sizes, strict=True)]


def naive(weights: dict[str, Tensor], maps: list[Tensor], grids: tuple[int, ...]) -> Tensor:
    """The head from its definition, in evaluation mode, from named weights."""

    def block(name: str, x: Tensor) -> Tensor:
        kernel = weights[f"{name}.0.weight"]
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (
            weights[f"{name}.1.{part}"][:, None, None] for part in parts
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def enlarged(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    def averages(x: Tensor, grid: int) -> Tensor:
        height, width = x.shape[2:]
        rows = [(i * height // grid, -(-(i + 1) * height // grid)) for i in range(grid)]
        columns = [(i * width // grid, -(-(i + 1) * width // grid)) for i in range(grid)]
        cells = [x[..., a:b, c:d].mean((2, 3)) for a, b in rows for c, d in columns]
        return torch.stack(cells, dim=-1).unflatten(-1, (grid, grid))

    c1, c2, c3, c4 = maps
    contexts = [
        enlarged(block(f"contexts.{i}.conv", averages(c4, grid)), c4)
        for i, grid in enumerate(grids)
    ]
    p4 = block("bottleneck", torch.cat([c4, *contexts], dim=1))
    p3 = block("laterals.2", c3) + enlarged(p4, c3)
    p2 = block("laterals.1", c2) + enlarged(p3, c2)
    p1 = block("laterals.0", c1) + enlarged(p2, c1)
    smooth = [block(f"smooths.{i}", p) for i, p in enumerate((p1, p2, p3))]
    fused = block("fuse", torch.cat([enlarged(p, c1) for p in (*smooth, p4)], dim=1))
    return F.conv2d(fused, weights["classifier.weight"], weights["classifier.bias"])


@pytest.mark.parametrize("grids", [(1, 2, 3, 6), (1, 4)])
def test_it_equals_its_definition(grids: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = UPerHead(WIDTHS, 5, channels=7, grids=grids).double()
    maps = [x.double() for x in random_maps()]
    with torch.no_grad():
        head(maps)  # moves the running statistics
        logits = head.eval()(maps)
    assert logits.shape == (2, 5, 33, 49)
    torch.testing.assert_close(logits, naive(head.state_dict(), maps, grids))


def test_parameters_follow_from_the_plan() -> None:
    widths, channels, classes = (128, 256, 512, 1024), 512, 19
    contexts = 4 * (1024 * channels)
    three_by_three = 9 * channels * ((1024 + 4 * channels) + 3 * channels + 4 * channels)
    laterals = (128 + 256 + 512) * channels
    norms = 2 * channels * (4 + 1 + 3 + 3 + 1)
    with torch.device("meta"):
        head = UPerHead(widths, classes)
    expected = contexts + three_by_three + laterals + norms + channels * classes + classes
    assert sum(p.numel() for p in head.parameters()) == expected


def test_grid_of_one_cell_needs_two_images_in_training() -> None:
    head = UPerHead(WIDTHS, 5, channels=7)
    with pytest.raises(ConfigError, match=r"data\.batch_size must be at least 2"):
        head(random_maps(batch=1))
    UPerHead(WIDTHS, 5, channels=7, grids=(2, 3))(random_maps(batch=1))
    head.eval()(random_maps(batch=1))


@pytest.mark.parametrize(("argument", "values"), [("in_channels", ()), ("grids", (1, 0))])
def test_impossible_shapes_are_refused(argument: str, values: tuple[int, ...]) -> None:
    arguments = {"in_channels": (8,), "num_classes": 5} | {argument: values}
    with pytest.raises(ValueError, match=f"{argument} must be positive integers"):
        UPerHead(**arguments)
