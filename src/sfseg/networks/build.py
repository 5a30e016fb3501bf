"""From a name to a segmenter: the one place that knows which backbones exist."""

from collections.abc import Callable

import torch
from torch import nn

from sfseg.networks.pyramid import TimmPyramid
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.tiny import TinyTransformer

HeadFactory = Callable[[tuple[int, ...], int], nn.Module]
"""Builds a head from the widths of the feature maps and the number of classes."""


def build_segmenter(
    *,
    name: str,
    head: HeadFactory,
    num_classes: int,
    pretrained: bool = False,
    weights: str | None = None,
    drop_path_rate: float = 0.0,
    output_norms: bool | None = None,
    gradient_checkpointing: bool = False,
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002 - the name users know from torch
) -> Segmenter:
    """A segmenter with random, downloaded or local backbone weights and a random head.

    Args:
        name: ``tiny`` or any timm model with feature maps at strides 4, 8, 16 and 32.
        head: called with the widths of the feature maps and ``num_classes``.
        num_classes: number of logits per pixel.
        pretrained: download the backbone's weights through timm.
        weights: local file of backbone weights, used instead of the download.
        drop_path_rate: probability that the deepest residual branch is skipped in training.
        output_norms: a LayerNorm on each feature map; None means for Swin only.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        channels_last: store convolution weights in (B, H, W, C) order.
        compile: compile the forward pass in place; names of weights do not change.

    Raises:
        ValueError: ``tiny`` is asked for weights that do not exist.
        ConfigError: the backbone or its weights cannot be had.
    """
    backbone: TinyTransformer | TimmPyramid
    if name == "tiny":
        if pretrained or weights is not None:
            raise ValueError(
                "backbone.pretrained must be false and backbone.weights null for tiny, "
                f"got pretrained={pretrained} and weights={weights}; tiny trains from scratch"
            )
        backbone = TinyTransformer(
            drop_path_rate=drop_path_rate, gradient_checkpointing=gradient_checkpointing
        )
    else:
        backbone = TimmPyramid(
            name,
            pretrained=pretrained,
            weights=weights,
            drop_path_rate=drop_path_rate,
            output_norms=output_norms,
            gradient_checkpointing=gradient_checkpointing,
        )
    segmenter = Segmenter(backbone, head(backbone.channels, num_classes))
    if channels_last:
        segmenter.to(memory_format=torch.channels_last)
    if compile:
        # One graph per size: with symbolic sizes, tracing the windows of a Swin takes hours.
        segmenter.compile(dynamic=False)
    return segmenter
