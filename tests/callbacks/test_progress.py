"""What progress says of training."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sfseg.callbacks.progress import ProgressReport


@pytest.mark.parametrize("bar", [False, True])
@pytest.mark.parametrize("trains", [True, False])
def test_a_loss_is_shown_where_something_trains(
    caplog: pytest.LogCaptureFixture, trains: bool, bar: bool
) -> None:
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=2)
    module: Any = nn.Module()
    module.network = nn.Linear(1, 1).requires_grad_(trains)
    module.clock = nn.Parameter(torch.zeros(()))
    report = ProgressReport(seconds=0, bar=bar)
    with caplog.at_level(logging.INFO), report.console.capture() as shown:
        report.on_train_start(trainer, module)
        trainer.global_step = 2
        report.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.5)}, None, 0)
        report.on_train_end(trainer, module)
    text = shown.get() if bar else caplog.text
    assert ("loss 0.5000" in text) == trains and "steps/s" in text
