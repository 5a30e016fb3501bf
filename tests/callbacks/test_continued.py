"""A run that goes on from a checkpoint has its own settings, not those of the checkpoint's run."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sfseg.callbacks.continued import Continued
from sfseg.optim import warmup_decay

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:.*has no `validation_step`|You defined|.*log_every_n_steps"),
]


class Line(LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr, self.rates = lr, list[float]()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        schedule = warmup_decay(optimizer, steps=8, decay="linear")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rates(lr: float, steps: int, folder: Path, start: Path | None = None) -> list[float]:
    line = Line(lr)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[Continued()] if start else [],
    )  # fmt: skip
    trainer.fit(line, DataLoader(torch.ones(16, 1)), ckpt_path=start, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return line.rates


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("sfseg")]


def test_a_run_that_goes_on_has_its_own_rates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert rates(0.8, 2, tmp_path) == pytest.approx([0.8, 0.7])
    (tmp_path / "last.ckpt").rename(start := tmp_path / "start.ckpt")
    with caplog.at_level(logging.INFO, logger="sfseg.callbacks.continued"):
        assert rates(0.8, 4, tmp_path, start) == pytest.approx([0.6, 0.5])
        assert not said(caplog)
        assert rates(0.08, 4, tmp_path, start) == pytest.approx([0.06, 0.05])
    (line,) = said(caplog)
    assert "initial_lr 0.8 -> 0.08" in line
