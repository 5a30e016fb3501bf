"""Evaluation of a network on its domains, for ``sfseg-eval`` and for every method."""

from collections.abc import Sequence
from typing import cast

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from sfseg.labels import LabelSpace
from sfseg.methods.refinement import Refiner
from sfseg.metrics import MEAN, ConfusionMatrix, Scores, averaged
from sfseg.ops.inference import Inference, label_map
from sfseg.types import Batch


class Evaluation(LightningModule):
    """Scores of a network at the labels' own resolution.

    ``scores`` holds the last evaluation of each domain, and of evaluation sets by name, whose
    domains are neither ``target`` nor ``source``, their mean before them; ``protocol`` says in
    words what they stand for, ``source_scores`` are those of the model that the network was made
    from, if any. All pseudo-labels that the network gives to images pass its ``refiner``, if it has
    one.

    Args:
        network: images (B, 3, H, W) to logits (B, K, H, W).
        labels: the task's label space.
        eval_domains: domain of each evaluation loader, first what the network is judged on.
        inference: evaluation protocol.
        stage: first part of the logged names: ``val``, or ``source_only`` for the scores of the
            model that a source-free method starts from.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        labels: LabelSpace,
        eval_domains: Sequence[str],
        inference: Inference,
        stage: str = "val",
    ) -> None:
        super().__init__()
        self.network = network
        self.labels = labels
        self.eval_domains = tuple(eval_domains)
        self.inference = inference
        self.stage = stage
        self.scores: dict[str, Scores] = {}
        self.source_scores: dict[str, Scores] = {}
        self.protocol = str(inference)
        self.refiner: Refiner | None = None
        # Not by name: a set may be called as a method of ModuleDict is.
        self.confusion = nn.ModuleList(
            ConfusionMatrix(labels.num_classes) for _ in self.eval_domains
        )

    @property
    def labels_online(self) -> bool:
        """Whether training steps make pseudo-labels, which pass the refiner, for their own use."""
        return False

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of images (B, 3, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Count one batch; returns the prediction (B, h, w) at the labels' size."""
        logits = self.inference(self, batch["image"])
        label = batch["label"]
        prediction = label_map(logits, (label.shape[-2], label.shape[-1]))
        cast(ConfusionMatrix, self.confusion[dataloader_idx]).update(prediction, label)
        return {"prediction": prediction}

    def on_validation_epoch_end(self) -> None:
        found: dict[str, Scores] = {}
        for domain, matrix in zip(self.eval_domains, self.confusion, strict=True):
            counted = cast(ConfusionMatrix, matrix)
            found[domain] = Scores.of(counted.compute(), self.labels)
            counted.reset()
        if sets := averaged(self.eval_domains):
            found = {MEAN: Scores.mean_of([found[name] for name in sets]), **found}
        self.scores.update(found)
        for domain, scores in found.items():
            values = [*scores.summary().values(), *scores.iou]
            self.log_dict(dict(zip(self._names(domain), values, strict=True)), sync_dist=True)

    def metric_names(self) -> list[str]:
        """What an evaluation logs, domain by domain."""
        mean = [MEAN] if averaged(self.eval_domains) else []
        return [name for domain in (*mean, *self.eval_domains) for name in self._names(domain)]

    def _names(self, domain: str) -> list[str]:
        summary = [*self.labels.subsets, "pixel_accuracy", "mean_accuracy"]
        classes = [f"IoU/{name}" for name in self.labels.classes]
        return [f"{self.stage}/{domain}/{name}" for name in summary + classes]
