"""Statistics of the target
========================

A network has learnt a drawn game. Its batch normalisation has kept the means and variances of the
game's features, and shifts those of a city as if they were the game's. ``method=bn_adapt`` takes
these statistics anew from images of the city, without labels, and trains nothing.
"""

import math

import torch
from PIL import Image
from small_model import scenes, trained

from sfseg.labels import CITYSCAPES
from sfseg.metrics import ConfusionMatrix, Scores
from sfseg.networks.batch_norm import reestimate
from sfseg.report.drawing import colourise, sheet

network = trained()
images, labels = scenes("city", "test", 12)


# %%
# The score is that of :class:`sfseg.metrics.Scores`, from one confusion matrix over all images.


def predicted() -> torch.Tensor:
    """Classes of the city's pixels by the network as it is."""
    with torch.no_grad():
        return network.eval()(images).argmax(dim=1).to(torch.uint8)


def miou(prediction: torch.Tensor) -> float:
    """Mean IoU over the classes that occur."""
    matrix = ConfusionMatrix(CITYSCAPES.num_classes)
    matrix.update(prediction, labels)
    return Scores.of(matrix.compute(), CITYSCAPES).summary()["mIoU"]


before = predicted()

# %%
# Batch after batch moves the statistics towards its own, by a momentum that falls: UBNA's
# numbers.

city, _ = scenes("city", "train", 24)
for k, batch in enumerate(city.split(4)):
    reestimate(network, batch, momentum=0.3 * math.exp(-0.08 * k))

after = predicted()
print(f"mIoU on the city: {miou(before):.1%} before, {miou(after):.1%} after")

# %%
# Pictures: image, label, prediction before, prediction after.

rows = []
for k in (0, 3, 6):
    shown = [colourise(part[k].numpy(), CITYSCAPES.palette) for part in (labels, before, after)]
    rows.append((f"scene {k}", [images[k].permute(1, 2, 0).numpy(), *shown]))
picture = Image.fromarray(sheet(rows, ["image", "label", "before", "after"]))
