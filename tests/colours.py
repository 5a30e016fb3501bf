"""A method whose predictions do not depend on what trains, so that a test knows them."""

from sfseg.methods.base import Method
from sfseg.types import StepOutput, TrainingBatch


class Colours(Method):
    """Predicts a class from the colour of each pixel alone, so that crops and flips move it."""

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> StepOutput:
        image = batch["target"]["image"]
        return {
            "loss": self(image).float().square().mean(),
            "prediction": image[:, 0] // 86 * 2,
            "confidence": image[:, 1].float() / 255,
        }
