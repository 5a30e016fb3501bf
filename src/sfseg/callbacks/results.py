"""The final table: per class, on the terminal, as CSV, markdown and JSON, and to W&B."""

import json
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from sfseg import tables
from sfseg.labels import LabelSpace
from sfseg.metrics import Scored, Scores


class Results(Callback):
    """Writes and shows the scores of the evaluation that follows training.

    ``results.json`` holds the protocol and the scores as shares in [0, 1]; ``results.csv`` and
    ``results.md`` the per-class table in percent.

    Args:
        folder: the run folder.
        title: heading of the table.
    """

    def __init__(self, folder: str, title: str) -> None:
        self.folder = Path(folder)
        self.title = title

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.VALIDATING or not trainer.is_global_zero:
            return
        module = cast(Scored, pl_module)
        scores, labels = module.scores, module.labels
        header, rows = tables.per_class(scores, labels)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "results.csv").write_text(tables.to_csv(header, rows))
        (self.folder / "results.md").write_text(tables.to_markdown(header, rows))
        (self.folder / "results.json").write_text(
            json.dumps(summary(scores, labels, module.protocol), indent=2)
        )
        tables.show(f"{self.title}\n{module.protocol}", header, rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(key="per_class", columns=header, data=[list(r) for r in rows])


def summary(scores: dict[str, Scores], labels: LabelSpace, protocol: str) -> dict[str, Any]:
    """All scores as JSON types; NaN becomes null, so that any reader accepts the file."""
    return {
        domain: {
            "protocol": protocol,
            "summary": {name: _finite(value) for name, value in s.summary().items()},
            "IoU": {
                name: _finite(value) for name, value in zip(labels.classes, s.iou, strict=True)
            },
        }
        for domain, s in scores.items()
    }


def _finite(value: float) -> float | None:
    return None if value != value else value
