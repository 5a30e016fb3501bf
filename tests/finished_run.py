"""A run's folder as training would leave it, of random weights."""

import json
from pathlib import Path

import torch
from conftest import SMALL
from hydra import compose, initialize_config_dir

import sfseg
from sfseg.config.composition import CONF, build, plain
from sfseg.labels import CITYSCAPES
from sfseg.storage.manifest import KEY

IOU = {name: k / 20 for k, name in enumerate(CITYSCAPES.classes)}


def make_run(folder: Path, *words: str, finished: bool = True) -> Path:
    """A run of random weights that says what one of training would say."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*SMALL, *words])
    torch.manual_seed(1)
    network = build(cfg.backbone.network, num_classes=19)
    if cfg.method.adapter is not None:
        network = build(cfg.method.adapter)(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    content = {
        "state_dict": {f"network.{k}": v for k, v in network.state_dict().items()}
        | {"other.weight": torch.zeros(1)},
        "global_step": 3,
        "optimizer_states": [],
        KEY: {
            "version": sfseg.__version__,
            "config": plain(cfg, resolve=False),
            "labels": CITYSCAPES.to_dict(),
            "source_model": {"path": "/home/carol/last.ckpt", "digest": "0"},
        },
    }
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    part = {"summary": {"mIoU": 0.5, "pixel_accuracy": 0.75}, "IoU": IOU}
    before = {"summary": {"mIoU": 0.25, "pixel_accuracy": 0.5}, "IoU": IOU | {"train": None}}
    target = {"protocol": "19 classes", **part, "source_only": before}
    (folder / "results.json").write_text(json.dumps({"target": target}))
    (folder / "run.json").write_text(json.dumps({"finished": {}} if finished else {}))
    return path
