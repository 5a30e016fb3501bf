"""Methods that see both domains, on a network of a few convolutions, and batches for them."""

from functools import partial

import small
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sfseg.data.geometry import Geometry, View
from sfseg.labels import LabelSpace
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.inference import Inference
from sfseg.types import IGNORE

LABELS = LabelSpace("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
SIZE = (32, 64)


class Backbone(nn.Module):
    """Two stages that halve the image, the first with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.stride_multiple, self.channels = 4, (4, 4)
        first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.stages = nn.ModuleList(
            [nn.Sequential(first, nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 3, stride=2, padding=1)]
        )

    def forward(self, image):
        maps = [self.stages[0](image)]
        return [*maps, self.stages[1](maps[0].relu())]


class Head(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(4, num_classes, 1)

    def forward(self, maps):
        return 4 * self.classifier(maps[-1])


def network(levels=1, num_classes=3):
    torch.manual_seed(0)
    aux = Head(num_classes) if levels == 2 else None
    return Segmenter(Backbone(), Head(num_classes), aux_head=aux)


def make(kind, *, levels=1, num_classes=3, crops=(SIZE, SIZE), **options):
    """A method of a class, with SGD whose rate falls by half with each step."""
    labels = LABELS if num_classes == 3 else LabelSpace("two", ("a", "b"), LABELS.palette[:2])
    views = {f"{d}_view": View(c) for d, c in zip(("source", "target"), crops, strict=True)}
    return kind(
        network=network(levels, num_classes), labels=labels, eval_domains=["target"],
        inference=Inference(), source_adapter=None, adapter=options.pop("adapter", None),
        plan={"steps": 4, "batch_size": 2, **views}, needs=["source", "target"], lr=0.1,
        weight_decay=0.0, parameter_rules=[], optimizer=partial(torch.optim.SGD, momentum=0.9),
        schedule=partial(LambdaLR, lr_lambda=lambda step: 0.5**step), log_every=1, seed=0,
        **({"aux_weight": 0.1} if levels == 2 else {}), **options,
    ).train()  # fmt: skip


def batch(seed=0, size=SIZE):
    """Two images of either domain; labels of the source are void in the first rows."""
    domains = {}
    for k, domain in enumerate(("source", "target")):
        random = torch.Generator().manual_seed(2 * seed + k)
        label = torch.randint(0, 3, (2, *size), generator=random, dtype=torch.uint8)
        label[:, :5] = IGNORE
        domains[domain] = {
            "image": torch.randint(0, 256, (2, 3, *size), generator=random, dtype=torch.uint8),
            "label": label if domain == "source" else torch.full_like(label, IGNORE),
            "index": torch.arange(2),
            "geometry": torch.tensor([Geometry.whole(size)] * 2),
        }
    return domains


def fit(method, data, **options):
    """Train on each of the batches once."""
    return small.fit(method, [*data, *data], max_steps=len(data), **options)


def reached(method, loss):
    """Parts of a method whose parameters a loss sends a gradient to."""
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        loss, [p for _, p in named], allow_unused=True, retain_graph=True
    )
    pairs = zip(named, gradients, strict=True)
    return {name.split(".")[0] for (name, _), g in pairs if g is not None and g.any()}
