"""Pictures that are read, predicted and written at once: in order, none lost, each once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfseg.data.headers import Header
from sfseg.data.inputs import Input
from sfseg.data.odd_pictures import Facts
from sfseg.errors import ConfigError, DataError
from sfseg.ops.inference import Inference
from sfseg.prediction.batches import Batches, Read
from sfseg.prediction.predictor import Predictor
from sfseg.report.drawing import Pixels

HEADER = Header(size=(4, 4), kind="PNG")


class Strongest(nn.Module):
    """The class of a pixel is its strongest colour; remembers how many pictures it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.most = 100

    def forward(self, image: Tensor) -> Tensor:
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        self.seen.append(len(image))
        return image.float() / 16


class Kept:
    """Keeps what would be written."""

    def __init__(self) -> None:
        self.labels: dict[Path, Pixels] = {}

    def write(self, name: Path, image: Pixels, label: Pixels, confidence: Pixels) -> None:
        assert name not in self.labels
        if name.name == "full.png":
            raise DataError("full.png cannot be written")
        self.labels[name] = label


def image(number: int) -> Pixels:
    """Of two sizes: five of one, then one of the other."""
    size = (4, 6) if number % 6 == 5 else (8, 6)
    return np.random.default_rng(number).integers(256, size=(*size, 3)).astype(np.uint8)


def read(one: Input) -> Read:
    number = int(one.name.stem)
    if number == 3:
        raise DataError("3.png is broken")
    return Read(image(number), Facts(HEADER, used=number))


def inputs(count: int) -> list[Input]:
    return [Input(Path(f"{k}.png"), Path(f"{k}.png")) for k in range(count)]


def batches(network: Strongest, batch_size: int, **settings: int) -> tuple[Batches, Kept]:
    given = {"tile_pixels": 4096} | settings
    infer = Predictor(
        network, Inference(), device="cpu", precision="32-true", rule=None, **given
    )  # fmt: skip
    kept = Kept()
    return Batches(read, infer, kept, batch_size=batch_size), kept  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch_size", "seen"), [(1, [1] * 11), (2, [2, 2, 1, 2, 2, 1, 1]), (9, [4, 1, 5, 1])]
)
def test_pictures_of_one_size_are_seen_together(batch_size: int, seen: list[int]) -> None:
    network = Strongest()
    run, kept = batches(network, batch_size)
    assert list(run.run(inputs(12))) == inputs(12)
    assert network.seen == seen
    assert run.failed(inputs(12)) == ["3.png is broken"] and run.count(inputs(12)) == 11
    assert [facts.used for facts in run.facts] == [k for k in range(12) if k != 3]
    for name, label in kept.labels.items():
        assert np.array_equal(label, image(int(name.stem)).argmax(2))
    assert len(kept.labels) == 11


def test_a_batch_too_large_for_the_memory_is_seen_one_by_one() -> None:
    network = Strongest()
    network.most = 1
    run, kept = batches(network, 4)
    assert len(list(run.run(inputs(5)))) == 5
    assert network.seen == [1] * 4 and len(kept.labels) == 4
    network.most = 0
    run, kept = batches(network, 4)
    list(run.run(inputs(2)))
    (first, _) = run.failed(inputs(2))
    assert first.startswith("0.png of 6x8 pixels is too large for the memory: set evaluation=slide")


def test_an_output_that_cannot_be_written_ends_it() -> None:
    run, _ = batches(Strongest(), 1)
    run.read = lambda _: Read(image(0), Facts(HEADER))
    with pytest.raises(DataError, match="full"):
        list(run.run([Input(Path("full.png"), Path("full.png")), *inputs(20)]))


@pytest.mark.parametrize("size", [0, -1, 1.5, "two", None])
def test_no_other_batch_is_taken(size: int) -> None:
    with pytest.raises(ConfigError, match="batch_size must be a whole number from 1, got"):
        batches(Strongest(), size)
