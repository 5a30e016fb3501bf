"""A batch of one image of one cell: refused before training, with the ways out."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from sfseg.data.geometry import View
from sfseg.errors import ConfigError
from sfseg.runs.single_images import check_single


class Coarse(nn.Module):
    """Batch normalisation of cells of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 16, stride=16), nn.BatchNorm2d(2), nn.Dropout())
        self.error: Exception | None = None

    def forward(self, image: torch.Tensor) -> Any:
        if self.error is not None:
            raise self.error
        return self.layers(image.to(self.layers[0].weight.dtype))


def check(network: Coarse, *, crop: int = 16, batch_size: int = 1, precision: Any = None) -> None:
    views = {"source": View(crop=(64, 64)), "target": View(crop=(crop, 16))}
    data = SimpleNamespace(batch_size=batch_size, domains=("source", "target"), views=views)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, precision=precision
    )
    check_single(network, data, trainer)  # type: ignore[arg-type]


def test_one_value_per_channel_is_refused_with_the_ways_out() -> None:
    message = (
        r"^data.batch_size=1 with crops of 16x16 pixels .* no variance; set it, of a method that "
        r"adapts data.adaptation.batch_size, to 2 or more, or make the crops larger: "
        r"data.source_view.crop, data.target_crop$"
    )
    for precision in ("32-true", "bf16-true"):
        with pytest.raises(ConfigError, match=message):
            check(Coarse(), precision=precision)
    check(Coarse(), crop=32)
    check(Coarse(), batch_size=2)


def test_nothing_of_the_run_changes() -> None:
    network = Coarse()
    before, random = deepcopy(network.state_dict()), torch.get_rng_state()
    check(network.eval(), crop=32)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and not network.training


def test_other_errors_stay_what_they_are() -> None:
    network = Coarse()
    network.error = ValueError("shapes")
    with pytest.raises(ValueError, match="shapes"):
        check(network)
