"""Methods that train in rounds: built small, stepped, and fitted with a store of labels."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningDataModule, Trainer

from sfseg.config import CONF, build
from sfseg.labels import CITYSCAPES
from sfseg.networks.build import build_segmenter
from sfseg.networks.heads import DAFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.tiny import TinyTransformer
from sfseg.ops.inference import Inference
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE

IMAGES, SIZE = 3, (33, 64)


@cache
def configured(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[f"method={name}"])


def head(channels, num_classes):
    return DAFormerHead(channels, num_classes, channels=8)


def plain(num_classes=19):
    """A network of a transformer, whose head alone has batch normalisation."""
    torch.manual_seed(0)
    backbone = TinyTransformer(channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    return Segmenter(backbone, head(backbone.channels, num_classes))


def residual(**options):
    torch.manual_seed(0)
    return build_segmenter(name="resnet18", head=head, num_classes=19, **options)


def make(name, network=None, labels=CITYSCAPES, **options):
    network = network or plain(labels.num_classes)
    return build(configured(name).method)(
        network=network, labels=labels, eval_domains=["target"], inference=Inference(), **options,
    ).train()  # fmt: skip


def batch(seed=0, size=SIZE):
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (2, *size), generator=rng, dtype=torch.uint8)
    label[:, :7] = IGNORE
    image = torch.randint(0, 256, (2, 3, *size), generator=rng, dtype=torch.uint8)
    return {"target": {"image": image, "pseudo_label": label}}


def step(method, data):
    torch.manual_seed(7)
    return method.training_step(data, 0)


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
        data = [batch(k) for k in range(self.steps)]
        return torch.utils.data.DataLoader(data, batch_size=None, collate_fn=lambda x: x)

    def labelling_dataloader(self):
        for k in range(IMAGES):
            yield {"image": batch(100 + k)["target"]["image"][:1], "index": torch.tensor([k])}

    def labels(self):
        return [self.pseudo_labels.read(k).label for k in range(IMAGES)]


def fit(method, data, **options):
    """Train on a :class:`Data`, or on batches alone."""
    steps = data.steps if isinstance(data, Data) else len(data)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        **{"max_steps": steps, **options},
    )  # fmt: skip
    if isinstance(data, Data):
        trainer.fit(method, datamodule=data)
    else:
        loader = torch.utils.data.DataLoader(data, batch_size=None, collate_fn=lambda x: x)
        trainer.fit(method, loader)


def attached(**settings):
    """A trainer that is only asked what it was set to."""
    return SimpleNamespace(**{"accumulate_grad_batches": 1, **settings})
