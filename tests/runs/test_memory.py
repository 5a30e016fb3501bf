"""That there is memory for the largest picture of an evaluation, seen before training."""

import logging
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

import cv2
import make
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from sfseg.data.check import Checks
from sfseg.data.geometry import EvalView, View
from sfseg.data.layouts import folder
from sfseg.data.module import AdaptationData
from sfseg.errors import ConfigError, DataError
from sfseg.methods.evaluation import Evaluation
from sfseg.ops.inference import Inference
from sfseg.runs.memory import Shown, check_largest, is_out_of_memory, largest

SIZES = [(32, 64), (48, 80), (16, 16)]
WORDS = "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."


class Greedy(nn.Module):
    """A network that has memory for so many pixels; remembers what it was shown."""

    shown: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self, pixels: float = float("inf"), error: Exception | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout())
        self.pixels, self.error = pixels, error or RuntimeError(WORDS)

    def forward(self, image: Tensor) -> Tensor:
        self.shown.append(tuple(image.shape))
        if image.shape[-2] * image.shape[-1] > self.pixels:
            raise self.error
        logits: Tensor = self.layers(image.to(self.layers[0].weight.dtype))
        assert not logits.requires_grad
        return logits + torch.rand(()) * 0


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    Greedy.shown.clear()
    yield
    Greedy.shown.clear()


def opened(sizes: list[tuple[int, int]] = SIZES, crop: int = 16, **options: Any) -> AdaptationData:
    """Evaluation pictures of these sizes of the target, and one of the source."""

    def memory(sizes: list[tuple[int, int]]) -> Any:
        images = [make.picture(k, size) for k, size in enumerate(sizes)]
        return lambda: make.Memory(images, [make.ids(k, 3, size) for k, size in enumerate(sizes)])

    data = AdaptationData(
        labels=make.space(3),
        needs=["source"],
        scenes={
            "source_train": memory([(crop, crop)]),
            "source_eval": memory([(40, 40)]),
            "target_eval": memory(sizes),
        },
        views={"source": View((crop, crop)), "target": View((crop, crop))},
        num_workers=0,
        **options,
    )
    data.setup("fit")
    return data


def trainer(**settings: Any) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)


def evaluation(network: nn.Module, **inference: Any) -> Evaluation:
    return Evaluation(
        network=network,
        labels=make.space(3),
        eval_domains=("target", "source"),
        inference=Inference(**inference),
    )


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("enforce fail: DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried 9 bytes."), True),
        (cv2.error("OpenCV: error: (-4:Insufficient memory) Failed to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory


@pytest.mark.parametrize(
    ("view", "size", "label_size"),
    [
        (EvalView(), (48, 80), (48, 80)),
        (EvalView(size=(20, 30)), (20, 30), (48, 80)),
        (EvalView(size=8, label_size=(9, 9)), (8, 16), (9, 9)),
    ],
)
def test_the_largest_is_that_of_most_pixels_as_the_network_sees_it(
    view: EvalView, size: tuple[int, int], label_size: tuple[int, int]
) -> None:
    found = largest(opened(eval_view=view), trainer())
    assert found is not None
    assert (found.size, found.label_size, found.count) == (size, label_size, 1)


def test_pictures_that_are_not_evaluated_do_not_count() -> None:
    data = opened()
    first = largest(data, trainer(limit_val_batches=1))
    assert first is not None and (first.name, first.size) == ("memory/0", (32, 64))
    data.left_out["target_eval"].indices.update((0, 1))
    found = largest(data, trainer())
    assert found == Shown(1, "memory/0", (40, 40), (40, 40), (40, 40), 1)
    assert largest(data, trainer(limit_val_batches=0)) is None


@pytest.mark.parametrize(
    "error", [RuntimeError(WORDS), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_a_picture_too_large_for_the_memory_is_named_with_the_ways_out(error: Exception) -> None:
    method = evaluation(Greedy(40 * 40, error))
    message = (
        r"^memory/1, the largest picture of the target eval set, cannot be evaluated: there is too "
        r"little memory on cpu for a network that sees 1 x 80x48 pixels \(width x height\) and is "
        r"scored at 80x48; set evaluation=slide, or a smaller data\.eval_size=\[height,width\]$"
    )
    with pytest.raises(ConfigError, match=message):
        check_largest(method, opened(), trainer())
    # The way out is one.
    check_largest(evaluation(Greedy(40 * 40), window=(24, 24)), opened(), trainer())
    check_largest(method, opened(eval_view=EvalView((20, 20))), trainer())


def test_the_ways_out_are_those_that_are_left() -> None:
    data = opened(eval_view=EvalView((20, 20)), eval_batch_size=2)
    with pytest.raises(ConfigError) as caught:
        check_largest(evaluation(Greedy(9), window=(18, 18)), data, trainer())
    assert "sees 2 x 20x20 pixels (width x height) and is scored at 80x48" in str(caught.value)
    assert str(caught.value).endswith(
        "set a smaller evaluation.window, data.eval_batch_size=1, "
        "data.eval_label_size=[height,width], or a smaller data.eval_size=[height,width]"
    )


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        check_largest(evaluation(Greedy(9, RuntimeError("shapes"))), opened(), trainer())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_nothing_of_the_run_changes(precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    method = evaluation(Greedy())
    method.train()
    method.network.layers[2].eval()  # type: ignore[union-attr, index, operator]
    before, random = deepcopy(method.state_dict()), torch.get_rng_state()
    modes = [part.training for part in method.modules()]
    with caplog.at_level(logging.INFO):
        check_largest(method, opened(), trainer(precision=precision))
    assert Greedy.shown == [(1, 3, 48, 80)]
    after = method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.dtype for value in after.values()} == {value.dtype for value in before.values()}
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in method.modules()] == modes
    assert "evaluation: trying memory/1, the largest picture of the target eval" in caplog.text
    assert caplog.text.count("evaluation") == 1


def test_pictures_no_larger_than_the_crops_are_not_tried() -> None:
    method = evaluation(Greedy(0))
    check_largest(method, opened(crop=64), trainer())
    assert not Greedy.shown
    # Enlarged, more at once, or scored at a size of its own it needs more.
    for inference, options in (
        ({"scales": (0.5, 1.5)}, {}),
        ({}, {"eval_batch_size": 9, "batch_size": 2, "sizes": [(48, 80)] * 3}),
        ({}, {"eval_view": EvalView((8, 8), (99, 99))}),
    ):
        with pytest.raises(ConfigError, match="cannot be evaluated"):
            check_largest(evaluation(Greedy(0), **inference), opened(crop=64, **options), trainer())


def test_all_headers_of_a_set_are_read(tmp_path: Any) -> None:
    """And nothing of the pictures: that of the largest is cut off behind its header."""
    for k in range(500):
        size = (9, 9) if k == 321 else (4, 8)
        make.write(tmp_path / "images" / f"{k:03}.png", np.zeros((*size, 3), np.uint8))
    odd = tmp_path / "images" / "321.png"
    odd.write_bytes(odd.read_bytes()[:48])
    (tmp_path / "classes.yaml").write_text("classes: [a, b, c]")
    opens = partial(folder, root=tmp_path, classes=tmp_path / "classes.yaml")
    data = AdaptationData(
        labels=opens().labels, needs=["target"],
        scenes={"target_eval": opens, "target_train": opens},
        views={"target": View((2, 2))}, checks=Checks(samples=2), num_workers=0,
    )  # fmt: skip
    data.setup("fit")
    found = largest(data, trainer())
    assert found is not None and (found.name, found.size) == ("images/321.png", (9, 9))
    odd.write_bytes(b"")
    with pytest.raises(DataError, match=r"321\.png"):
        largest(data, trainer())
