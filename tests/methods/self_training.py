"""Methods that train in rounds: built small, stepped, and fitted with a store of labels."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import small
import torch
from lightning.pytorch import LightningDataModule
from small import built, configured, head, loader, transformer

from sfseg.labels import CITYSCAPES
from sfseg.networks.build import build_segmenter
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE

IMAGES, SIZE = 3, (33, 64)


batch = partial(small.batch, size=SIZE)


def residual(**options):
    torch.manual_seed(0)
    return build_segmenter(name="resnet18", head=head, num_classes=19, **options)


def make(name, network=None, labels=CITYSCAPES, **options):
    network = network or transformer(labels.num_classes)
    return built(configured(f"method={name}"), network, labels, **options)


class Data(LightningDataModule):
    """Batches, and a store with the labels of a few images."""

    def __init__(self, folder, steps):
        super().__init__()
        names = [str(k) for k in range(IMAGES)]
        identity = Identity(names, [SIZE] * IMAGES, CITYSCAPES.classes, "model")
        self.pseudo_labels = PseudoLabelStore.create(folder, identity, durable=False)
        empty = np.full(SIZE, IGNORE, np.uint8)
        self.pseudo_labels.write(*(Patch(k, empty) for k in range(IMAGES)))
        self.pseudo_labels.commit()
        self.steps = steps

    def train_dataloader(self):
        return loader([batch(seed=k) for k in range(self.steps)])

    def labelling_dataloader(self):
        for k in range(IMAGES):
            yield {"image": batch(seed=100 + k)["target"]["image"][:1], "index": torch.tensor([k])}

    def labels(self):
        return [self.pseudo_labels.read(k).label for k in range(IMAGES)]


def attached(**settings):
    """A trainer that is only asked what it was set to."""
    return SimpleNamespace(**{"accumulate_grad_batches": 1, **settings})
