"""Methods built small: their configuration, a network, images of the target, a few steps."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningDataModule, Trainer

from sfseg.config.composition import CONF, build
from sfseg.data.geometry import Geometry
from sfseg.labels import CITYSCAPES
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.inference import Inference
from sfseg.types import IGNORE

QUIET = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]


@cache
def configured(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def built(cfg, network, labels=CITYSCAPES, **options):
    """The method of a configuration, in train mode."""
    return build(cfg.method)(
        network=network, labels=labels, eval_domains=["target"], inference=Inference(), **options
    ).train()


def head(channels, num_classes):
    return DAFormerHead(channels, num_classes, channels=8)


def backbone(drop_path_rate=0.0):
    return TinyTransformer(
        channels=(32, 32, 32, 32), depths=(1, 1, 1, 1), drop_path_rate=drop_path_rate
    )


def transformer(num_classes=19, *, drop_path_rate=0.0, **options):
    """A network of which the head alone has batch normalisation."""
    torch.manual_seed(0)
    features = backbone(drop_path_rate)
    return Segmenter(features, head(features.channels, num_classes), **options)


def batch(size=(32, 64), *, seed=0, cells=None, classes=19):
    """Two images with pseudo-labels, which are void in the first rows.

    cells: rows and columns of patches of one label, by default one a pixel.
    """
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, classes, (2, *(cells or size)), generator=rng, dtype=torch.uint8)
    label = F.interpolate(ids[None].float(), size)[0].to(torch.uint8)
    label[:, :5] = IGNORE
    target = {
        "image": torch.randint(0, 256, (2, 3, *size), generator=rng, dtype=torch.uint8),
        "label": torch.full((2, *size), IGNORE, dtype=torch.uint8),
        "index": torch.tensor([5, 3]),
        "geometry": torch.tensor([Geometry.whole(size)] * 2),
        "pseudo_label": label,
    }
    return {"target": target}


def every_position(maps, **options):
    """In place of ``random_positions``: all, in their order."""
    return torch.arange(maps[0, 0].numel()).expand(len(maps), -1)


def step(method, data):
    torch.manual_seed(7)
    return method.training_step(data, 0)


def trainer(**options):
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip


def loader(data):
    return torch.utils.data.DataLoader(data, batch_size=None, collate_fn=lambda x: x)


def fit(method, data, **options):
    """Train on each of the batches once, or on those of a DataModule."""
    fitting = trainer(**{"max_epochs": 1, **options})
    fitting.fit(method, data if isinstance(data, LightningDataModule) else loader(data))
    return fitting
