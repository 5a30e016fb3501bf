"""The table at the end of a run, and what it says of sets without labels."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from sfseg.callbacks.results import Results
from sfseg.labels import CITYSCAPES
from sfseg.metrics import Scores

LABELLED = Scores.of(torch.eye(19, dtype=torch.int64), CITYSCAPES)
UNLABELLED = Scores.of(torch.zeros(19, 19, dtype=torch.int64), CITYSCAPES)
PROTOCOL = "19 classes, target: 3 of 500 images"


def written(folder: Path, scores: dict[str, Scores], before: dict[str, Scores]) -> str:
    module: Any = SimpleNamespace(
        labels=CITYSCAPES, scores=scores, source_scores=before, eval_domains=tuple(scores),
        protocol=PROTOCOL, stage="val", network=nn.Linear(1, 1),
    )  # fmt: skip
    state = SimpleNamespace(fn=TrainerFn.VALIDATING)
    trainer: Any = SimpleNamespace(state=state, is_global_zero=True, loggers=[])
    Results(str(folder), "title").on_validation_end(trainer, module)
    return (folder / "results.md").read_text()


def test_the_protocol_is_with_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = written(tmp_path, {"target": LABELLED}, {"target": LABELLED})
    assert text.startswith("| class | target source-only | target adapted | gain |")
    assert text.endswith(f"\n\n{PROTOCOL}\n")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["target"]["protocol"] == PROTOCOL
    assert "3 of 500 images" in capsys.readouterr().out


def test_a_target_without_labels_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = written(tmp_path, {"target": UNLABELLED}, {"target": UNLABELLED})
    line = "target: no labels, so no scores"
    assert text == f"{line}\n\n{PROTOCOL}\n"
    out = capsys.readouterr().out
    assert line in out and "mIoU" not in out
    assert json.loads((tmp_path / "results.json").read_text())["target"]["summary"]["mIoU"] is None
    text = written(tmp_path, {"target": UNLABELLED, "source": LABELLED}, {})
    assert text.startswith("| class | source IoU |\n") and line in text
