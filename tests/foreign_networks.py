"""Small networks of transformers, with weights and statistics that a wrong conversion shows in."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from sfseg.conversion import convnext, swin
from sfseg.networks.backbones import mit

NAMES = ("street", "car", "sky", "tree")
SWIN, CONVNEXT = "swin_tiny_patch4_window7_224", "convnext_tiny"
NARROW: dict[str, dict[str, Any]] = {
    SWIN: {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)},
    CONVNEXT: {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)},
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
KINDS = ("segformer", "mask2former", "upernet_swin", "upernet_convnext")


def narrow(patch: pytest.MonkeyPatch) -> None:
    """Let the smallest backbone of each kind be narrower still."""
    create = timm.create_model

    def create_narrow(name: str, **options: object) -> nn.Module:
        return create(name, **(NARROW.get(name, {}) | options))

    patch.setattr(timm, "create_model", create_narrow)
    patch.setitem(mit.VARIANTS, "mit_b0", (8, (1, 2, 1, 1)))
    patch.setitem(swin.SWINS, (24, (2, 2, 2, 2), (1, 2, 4, 8), 7), ("swin_t", SWIN))
    patch.setitem(convnext.CONVNEXTS, ((8, 16, 24, 32), (1, 1, 2, 1)), ("convnext_tiny", CONVNEXT))


def stirred(model: nn.Module) -> nn.Module:
    """The model with random weights, none of which is zero, one or what it is at another place."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    return model.eval()


def foreign(kind: str, **changes: Any) -> Any:
    """A network of transformers.

    Args:
        kind: one of KINDS.
        changes: of its configuration.
    """
    transformers = pytest.importorskip("transformers")
    classes = {
        "id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}
    }  # fmt: skip
    swins = transformers.SwinConfig(
        embed_dim=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], out_features=STAGES
    )
    if kind == "segformer":
        config = transformers.SegformerConfig(
            hidden_sizes=[8, 16, 40, 64], depths=[1, 2, 1, 1], decoder_hidden_size=16,
            **classes, **changes,
        )  # fmt: skip
        return stirred(transformers.SegformerForSemanticSegmentation(config))
    if kind == "mask2former":
        config = transformers.Mask2FormerConfig(
            backbone_config=swins, feature_size=32, mask_feature_size=32, hidden_dim=32,
            encoder_layers=1, decoder_layers=4, num_attention_heads=4, num_queries=6,
            encoder_feedforward_dim=40, dim_feedforward=48, train_num_points=64,
            no_object_weight=0.25, **classes, **changes,
        )  # fmt: skip
        return stirred(transformers.Mask2FormerForUniversalSegmentation(config))
    own = swins
    if kind == "upernet_convnext":
        own = transformers.ConvNextConfig(
            hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], out_features=STAGES
        )
    config = transformers.UperNetConfig(
        backbone_config=own, hidden_size=16, pool_scales=[1, 2, 3], auxiliary_channels=8,
        **classes, **changes,
    )  # fmt: skip
    return stirred(transformers.UperNetForSemanticSegmentation(config))


def saved(model: Any, folder: Path, **preprocessing: Any) -> Path:
    """The folder of a network of transformers, with what prepares its images."""
    import transformers

    model.save_pretrained(folder)
    if preprocessing:
        transformers.SegformerImageProcessor(**preprocessing).save_pretrained(folder)
    return folder
