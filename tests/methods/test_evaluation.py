"""What an evaluation logs: of each domain, and of evaluation sets by name their mean too."""

from typing import Any

import make
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sfseg.methods.evaluation import Evaluation
from sfseg.metrics import Scores
from sfseg.ops.inference import Inference


class Says(nn.Module):
    """Predicts the class that the first channel of an image holds."""

    def forward(self, image: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(image[:, 0].long(), 3)
        return hot.permute(0, 3, 1, 2).float()


def batches(*rows: tuple[list[int], list[int]]) -> DataLoader[Any]:
    """Images of given predictions, with labels; one row of pixels each."""
    scenes = [
        {
            "image": torch.tensor([said] * 3, dtype=torch.uint8)[:, None],
            "label": torch.tensor([label], dtype=torch.uint8),
        }
        for said, label in rows
    ]
    return DataLoader(scenes, batch_size=1)  # type: ignore[arg-type]


def evaluated(sets: dict[str, DataLoader[Any]]) -> tuple[Evaluation, dict[str, float]]:
    module = Evaluation(
        network=Says(), labels=make.space(3), eval_domains=tuple(sets), inference=Inference()
    )
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(module, list(sets.values()), verbose=False)
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


# Names of methods of torch's modules too: no set may lose its name to them.
SETS = {
    "clear": batches(([0, 0, 1, 1], [0, 0, 1, 1]), ([2, 2, 2, 2], [2, 2, 2, 2])),
    "train": batches(([0, 0, 0, 0], [0, 0, 1, 1])),
    "source": batches(([1, 1, 1, 1], [0, 0, 0, 0])),
}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_every_set_is_scored_and_their_mean() -> None:
    module, logged = evaluated(SETS)
    assert list(module.scores) == ["mean", "clear", "train", "source"]
    # road 2/4, and the other class 0; the third occurs nowhere.
    assert logged["val/clear/mIoU"] == 1 and logged["val/train/mIoU"] == pytest.approx(0.25)
    assert logged["val/mean/mIoU"] == pytest.approx((1 + 0.25) / 2)
    assert logged["val/mean/pixel_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert logged["val/source/mIoU"] == 0
    assert set(logged) == set(module.metric_names())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_target_and_a_source_have_no_mean() -> None:
    module, logged = evaluated({"target": SETS["train"], "source": SETS["source"]})
    assert list(module.scores) == ["target", "source"]
    assert not any("mean/" in name for name in logged)
    assert set(logged) == set(module.metric_names())
    assert isinstance(module.scores["target"], Scores)
