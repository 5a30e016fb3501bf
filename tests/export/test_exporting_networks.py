"""What networks compute while they are exported, and every network of ``conf/`` as a file."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_onnx_file import pictures
from torch import nn

from sfseg.config.composition import CONF, build
from sfseg.export.agreement import compare, require_agreement
from sfseg.export.deployed import Deployed
from sfseg.export.onnx_file import OnnxRuntime, onnx_file
from sfseg.export.tracing import traced
from sfseg.networks import layers, segmenter
from sfseg.networks.segmenter import Segmenter

CLASSES = 7
BACKBONES = sorted(p.stem for p in (CONF / "backbone").glob("[!_]*.yaml"))
HEADS = sorted(p.stem for p in (CONF / "backbone" / "head").glob("*.yaml"))
OF_VGG = {"fcn8s", "segnet"}


def network(*overrides: str) -> Segmenter:
    """A network of ``conf/`` whose logits depend on the image as those of a trained one do.

    As first drawn, many are nearly constant, and a wrong file of them would look right.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["backbone.pretrained=false", *overrides])
    made: Segmenter = build(cfg.backbone.network, num_classes=CLASSES)
    if cfg.method.get("adapter") is not None:
        made = build(cfg.method.adapter)(made)
    return awake(made)


@torch.no_grad()
def draw(made: Segmenter) -> None:
    """What begins at zero, or next to it, so that it counts."""
    for name, parameter in made.named_parameters():
        if name.endswith("injector.gamma"):
            parameter.fill_(0.5)
        if name.endswith(("offsets.weight", "scores.weight")):
            parameter.normal_(std=0.1)
        if name.endswith(("class_head.classes.weight", "mask_embedding.4.weight")):
            parameter.normal_()  # queries of different classes and masks
        # FCN's scores begin at zero.
        if parameter.ndim == 4 and not parameter.any():
            parameter.normal_(std=0.1)


@torch.no_grad()
def awake(made: Segmenter) -> Segmenter:
    """Batch norm fitted to two pictures, prompts that count, logits of a deviation of 1."""
    draw(made)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    images = pictures()[0]
    made.train()
    made(images)
    made.eval()
    scale = made(images).std(dim=(0, 2, 3)).mean()
    for part in made.head.modules():
        if isinstance(part, nn.Conv2d) and part.out_channels == CLASSES:
            part.weight.div_(scale)
    return made


def require_right_file(made: Segmenter) -> None:
    model = Deployed(made, "logits").eval()
    file = onnx_file(traced(model), model.names, {})
    rows = compare(model, OnnxRuntime(file.SerializeToString(), threads=1), pictures())
    assert min(row.classes for row in rows) > 1
    require_agreement(model, rows)


@pytest.mark.parametrize("head", ["daformer_small", "upernet"])
def test_an_exported_network_computes_the_same(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("backbone=tiny", f"backbone/head={head}").double()
    image = pictures()[1]
    with torch.no_grad():
        before = made(image)
        for module in (layers, segmenter):
            monkeypatch.setattr(module, "is_exporting", lambda: True)
        torch.testing.assert_close(made(image), before)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_becomes_a_right_file(backbone: str) -> None:
    require_right_file(network(f"backbone={backbone}"))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_every_head_becomes_a_right_file(head: str) -> None:
    vgg = ["backbone.network.name=vgg11_bn"] * (head in OF_VGG)
    require_right_file(network("backbone=tiny", f"backbone/head={head}", *vgg))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["tiny", "mit_b0", "swin_t"])
@pytest.mark.parametrize("method", ["uniuvpt", "vpt_elr"])
def test_prompted_networks_become_right_files(method: str, backbone: str) -> None:
    require_right_file(network(f"method={method}", f"backbone={backbone}"))


@pytest.mark.slow
def test_a_network_that_was_trained_in_less_memory_becomes_a_right_file() -> None:
    require_right_file(network("backbone=convnext_tiny", "backbone.gradient_checkpointing=true"))
