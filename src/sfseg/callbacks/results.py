"""The final table: per class, on the terminal, as CSV, markdown and JSON, and to W&B."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from sfseg.callbacks.base import scored
from sfseg.callbacks.order import Ordered
from sfseg.callbacks.selection import Selection, selection_of
from sfseg.labels import LabelSpace
from sfseg.metrics import Scores
from sfseg.ops.processes import are_several, of_each_process
from sfseg.optim import count_parameters
from sfseg.report import tables
from sfseg.report.sending import send_table

CONFUSION = "confusion.json"


class Results(Ordered):
    """Writes and shows the scores of the evaluation that follows training.

    ``results.json`` holds the protocol, the number of images and the scores as shares in [0, 1];
    ``results.csv`` and ``results.md`` the per-class table in percent, of sets that have labels. All
    but the CSV file say the protocol and, where the weights are not the last, how they were
    selected. ``confusion.json`` holds what all scores follow from: the pixels of each set by label
    and prediction.

    Args:
        folder: the run folder.
        title: heading of the table.
    """

    after = (Selection,)

    def __init__(self, folder: str, title: str) -> None:
        self.folder = Path(folder)
        self.title = title
        self._images: dict[str, int] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images = dict.fromkeys(scored(pl_module).eval_domains, 0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._images[scored(pl_module).eval_domains[dataloader_idx]] += len(batch["image"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = scored(pl_module)
        if trainer.state.fn != TrainerFn.VALIDATING or module.stage != "val":
            return
        images = _over_processes(self._images, pl_module) if are_several() else self._images
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
        for domain, number in images.items():
            document[domain]["images"] = number
        (self.folder / "results.json").write_text(json.dumps(document, indent=2))
        counts = confusion(scores, labels, module.source_scores)
        (self.folder / CONFUSION).write_text(json.dumps(counts))
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


def confusion(
    scores: dict[str, Scores], labels: LabelSpace, source_scores: dict[str, Scores]
) -> dict[str, Any]:
    """The confusion matrices of all sets that have some, as JSON types; rows are labels."""
    document: dict[str, Any] = {}
    for key, found in (("source_only", source_scores), ("counts", scores)):
        for domain, one in found.items():
            if one.counts is not None:
                part = document.setdefault(domain, {"classes": list(labels.classes)})
                part[key] = [list(row) for row in one.counts]
    return document


def _over_processes(images: dict[str, int], module: LightningModule) -> dict[str, int]:
    """The sums over all processes, each of which asks."""
    own = torch.tensor(list(images.values()), device=module.device)
    total = torch.stack(of_each_process(own)).sum(dim=0)
    return dict(zip(images, total.tolist(), strict=True))


def _as_json(scores: Scores, labels: LabelSpace) -> dict[str, Any]:
    iou = zip(labels.classes, scores.iou, strict=True)
    return {
        "summary": {name: _finite(value) for name, value in scores.summary().items()},
        "IoU": {name: _finite(value) for name, value in iou},
    }


def _finite(value: float) -> float | None:
    return None if value != value else value
