"""Evaluation of a network on one or two domains, for ``sfseg-eval`` and for every method."""

from collections.abc import Sequence
from typing import cast

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from sfseg.labels import LabelSpace
from sfseg.methods.refinement import Refiner
from sfseg.metrics import ConfusionMatrix, Scores
from sfseg.ops.inference import Inference, label_map
from sfseg.types import Batch


class Evaluation(LightningModule):
    """Scores of a network at the labels' own resolution.

    ``scores`` holds the last evaluation of each domain, ``protocol`` says in words what they
    stand for, ``source_scores`` are those of the model that the network was made from, if any.
    All pseudo-labels that the network gives to images pass its ``refiner``, if it has one.

    Args:
        network: images (B, 3, H, W) to logits (B, K, H, W).
        labels: the task's label space.
        eval_domains: domain of each evaluation loader, the target first.
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
        matrices: dict[str, Metric] = {
            domain: ConfusionMatrix(labels.num_classes) for domain in self.eval_domains
        }
        self.confusion = nn.ModuleDict(matrices)

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
        self._matrix(self.eval_domains[dataloader_idx]).update(prediction, label)
        return {"prediction": prediction}

    def on_validation_epoch_end(self) -> None:
        for domain in self.eval_domains:
            matrix = self._matrix(domain)
            scores = Scores.of(matrix.compute(), self.labels)
            matrix.reset()
            self.scores[domain] = scores
            values = [*scores.summary().values(), *scores.iou]
            self.log_dict(dict(zip(self._names(domain), values, strict=True)), sync_dist=True)

    def metric_names(self) -> list[str]:
        """What an evaluation logs, domain by domain."""
        return [name for domain in self.eval_domains for name in self._names(domain)]

    def _names(self, domain: str) -> list[str]:
        summary = [*self.labels.subsets, "pixel_accuracy", "mean_accuracy"]
        classes = [f"IoU/{name}" for name in self.labels.classes]
        return [f"{self.stage}/{domain}/{name}" for name in summary + classes]

    def _matrix(self, domain: str) -> ConfusionMatrix:
        return cast(ConfusionMatrix, self.confusion[domain])
