"""A score without labels
======================

Which of several checkpoints is the best, if no image of the target has a label? Scores that
reward certainty are the best for a model that has collapsed: one class everywhere is certain, and
agrees with itself in every view. ``select=label_free`` goes by the agreement of two views *class by
class*, in which a class that has vanished counts as 0.
"""

from copy import deepcopy

import torch
from small_model import scenes, trained

from sfseg.labels import CITYSCAPES
from sfseg.metrics import ConfusionMatrix, Scores
from sfseg.ops.entropy import normalized_entropy
from sfseg.ops.label_free import (
    agreement,
    agreement_counts,
    class_shares,
    classwise_agreement,
    second_view,
)

images, labels = scenes("city", "test", 12)
K = CITYSCAPES.num_classes

# %%
# Three models: one of a few steps, one of more, and the latter after it has collapsed to road.

early, late = trained(steps=12), trained()
collapsed = deepcopy(late)
with torch.no_grad():
    collapsed.head.classifier.bias[CITYSCAPES.classes.index("road")] += 100


@torch.no_grad()
def judged(network: torch.nn.Module, expected: torch.Tensor) -> dict[str, float]:
    """Scores without labels, and the mIoU that they stand for."""
    logits, other = network(images), network(second_view(images)).flip(-1)
    label = logits.argmax(dim=1).to(torch.uint8)
    counts = agreement_counts(label, other.argmax(dim=1).to(torch.uint8), num_classes=K)
    matrix = ConfusionMatrix(K)
    matrix.update(label, labels)
    return {
        "entropy": normalized_entropy(logits).mean().item(),
        "agreement": agreement(counts).item(),
        "class by class": classwise_agreement(counts, expected).item(),
        "mIoU": Scores.of(matrix.compute(), CITYSCAPES).summary()["mIoU"],
    }


# %%
# The classes that a model has to keep are those that the first one predicts.

with torch.no_grad():
    first = early(images).argmax(dim=1).to(torch.uint8)
expected = class_shares(agreement_counts(first, first, num_classes=K)) > 0
for name, network in {"early": early, "late": late, "collapsed": collapsed}.items():
    scores = judged(network, expected)
    print(f"{name:10}", "  ".join(f"{key} {value:.3f}" for key, value in scores.items()))

# %%
# By entropy (lower is better) and by plain agreement the collapsed model is the best and the
# early one the worst. Class by class the order of the three is that of their mIoU.
