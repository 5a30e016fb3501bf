"""A method that sees the labelled source, and makes the target's labels itself when it is time."""

from typing import Any

from sfseg.methods.base import Method
from sfseg.methods.labelling import Selection
from sfseg.methods.rounds import label_anew
from sfseg.ops.losses import cross_entropy
from sfseg.types import IGNORE, StepOutput, TrainingBatch

STEP = 3
"""After it the target is labelled."""


class OwnLabels(Method):
    """Cross-entropy on the source's labels and, when there are some, on its own of the target."""

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        source, target = batch["source"], batch["target"]
        is_labelled = bool((target["pseudo_label"] != IGNORE).any())
        assert is_labelled == (self.iteration > STEP), "labels come after that step alone"
        terms = {
            "source": cross_entropy(self(source["image"]), source["label"]),
            "target": cross_entropy(self(target["image"]), target["pseudo_label"]),
        }
        return {"loss": self.total(terms)}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.iteration == STEP:
            label_anew(self, Selection("cbst", portion=0.5))
