"""The final table: per class, on the terminal, as CSV, markdown and JSON, and to W&B."""

import json
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from sfseg.callbacks.base import scored
from sfseg.callbacks.order import Ordered
from sfseg.callbacks.selection import Selection, selection_of
from sfseg.labels import LabelSpace
from sfseg.metrics import Scores
from sfseg.optim import count_parameters
from sfseg.report import tables
from sfseg.report.sending import send_table


class Results(Ordered):
    """Writes and shows the scores of the evaluation that follows training.

    ``results.json`` holds the protocol and the scores as shares in [0, 1]; ``results.csv`` and
    ``results.md`` the per-class table in percent, of sets that have labels. All but the CSV
    file say the protocol and, where the weights are not the last, how they were selected.

    Args:
        folder: the run folder.
        title: heading of the table.
    """

    after = (Selection,)

    def __init__(self, folder: str, title: str) -> None:
        self.folder = Path(folder)
        self.title = title

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = scored(pl_module)
        if trainer.state.fn != TrainerFn.VALIDATING or module.stage != "val":
            return
        if not trainer.is_global_zero:
            return
        scores, labels = module.scores, module.labels
        header, rows = tables.per_class(scores, labels, module.source_scores)
        tables.write_csv(self.folder / "results.csv", header, rows)
        selection = selection_of(self.others)
        note = "" if selection is None else selection.note
        labelled = {domain: found for domain, found in scores.items() if any(found.pixels)}
        lines = [
            f"{domain}: no labels, so no scores" for domain in scores if domain not in labelled
        ]
        shown = tables.per_class(labelled, labels, module.source_scores) if labelled else None
        parts = [] if shown is None else [tables.to_markdown(*shown)]
        text = "\n".join(
            [*parts, *(f"{line}\n" for line in [*lines, module.protocol, note] if line)]
        )
        (self.folder / "results.md").write_text(text, "utf-8")
        protocol = f"{module.protocol}, {note}" if note else module.protocol
        document = summary(scores, labels, protocol, module.source_scores, selection)
        (self.folder / "results.json").write_text(json.dumps(document, indent=2))
        # Of what is evaluated: neither teachers nor generators.
        total, trainable = count_parameters(cast(nn.Module, pl_module.network).parameters())
        title = f"{self.title}\n{protocol}"
        if module.source_scores:
            title += f"\n{trainable:,} of {total:,} parameters trained"
        tables.show("\n".join([title, *lines]), *(shown or ([], [])))
        if shown is not None:
            send_table(trainer.loggers, "per_class", *shown)


def summary(
    scores: dict[str, Scores],
    labels: LabelSpace,
    protocol: str,
    source_scores: dict[str, Scores],
    selection: Selection | None = None,
) -> dict[str, Any]:
    """All scores as JSON types; NaN becomes null, so that any reader accepts the file."""
    document = {
        domain: {"protocol": protocol, **_as_json(s, labels)} for domain, s in scores.items()
    }
    for domain, s in source_scores.items():
        document[domain]["source_only"] = _as_json(s, labels)
    if selection is not None and selection.note:
        for part in document.values():
            part["selection"] = {"mode": selection.mode, "step": selection.step}
    return document


def _as_json(scores: Scores, labels: LabelSpace) -> dict[str, Any]:
    iou = zip(labels.classes, scores.iou, strict=True)
    return {
        "summary": {name: _finite(value) for name, value in scores.summary().items()},
        "IoU": {name: _finite(value) for name, value in iou},
    }


def _finite(value: float) -> float | None:
    return None if value != value else value
