"""Early learning
==============

A network that learns wrong labels learns what is right in them first. Here it learns drawn
streets of which a third of the road's pixels are labelled as pavement.
:class:`sfseg.callbacks.early_learning.EarlyLearning` watches, class by class, the IoU of its
predictions against the labels that it is given: the curve rises fast, then slows, and that is the
moment to correct labels.
"""

import numpy as np
import torch
from PIL import Image
from small_model import Backbone, Head, scenes

from sfseg.labels import CITYSCAPES
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.early_learning import fit_curve, slowdown
from sfseg.ops.losses import cross_entropy
from sfseg.report.plots import Axes, Plot, draw_plot

ROAD, PAVEMENT = (CITYSCAPES.classes.index(name) for name in ("road", "sidewalk"))
images, truth = scenes("game", "train", 24)
torch.manual_seed(0)
wrong = (truth == ROAD) & (torch.rand(truth.shape) < 1 / 3)
given = truth.masked_fill(wrong, PAVEMENT)

# %%
# Training, with two measurements every few steps: against the labels that are given, and against
# the true ones, which no method sees.


def iou(prediction: torch.Tensor, label: torch.Tensor) -> float:
    """Of the road."""
    mine, theirs = prediction == ROAD, label == ROAD
    return ((mine & theirs).sum() / (mine | theirs).sum()).item()


network = Segmenter(Backbone(), Head())
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
measured: list[tuple[int, float, float]] = []
for step in range(1, 49):
    chosen = torch.randint(len(images), (4,))
    optimizer.zero_grad()
    cross_entropy(network(images[chosen]), given[chosen]).backward()
    optimizer.step()
    if step % 3 == 0:
        with torch.no_grad():
            prediction = network(images[:8]).argmax(dim=1)
        measured.append((step, iou(prediction, given[:8]), iou(prediction, truth[:8])))

# %%
# The cubic of :func:`sfseg.ops.early_learning.fit_curve`, and by how much its slope has fallen
# since the first measurement.

steps, against_given, against_truth = (
    np.array(part, float) for part in zip(*measured, strict=True)
)
fit = fit_curve(steps, against_given, curve="cubic")
for last in (6, 10, 16):
    part = fit_curve(steps[:last], against_given[:last], curve="cubic")
    fallen = slowdown(part, first=steps[0], last=steps[last - 1], rule="paper")
    print(f"after {steps[last - 1]:.0f} steps: {fallen:.2f}")

# %%
# Both curves, the fit dashed. What is measured against wrong labels stays low; what the network
# has learnt is the road.

smooth = np.linspace(steps[0], steps[-1], 80)
plot = Plot(
    "road",
    CITYSCAPES.palette[ROAD],
    curves=[(steps, against_given), (steps, against_truth)],
    fits=[(smooth, fit.value(smooth))],
    words=["above: true labels; below: those given, and the fit"],
)
picture = Image.fromarray(draw_plot(plot, Axes(x="steps", last=steps[-1])))
