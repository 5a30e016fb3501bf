"""From a name to a segmenter: the one place that knows which backbones exist.

timm, which imports much, is imported for its own models only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sfseg.networks.backbones.mit import MixTransformer, mix_transformer
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.batch_norm_policy import BatchNormPolicy
from sfseg.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from sfseg.networks.weights.checkpoint import load_backbone, load_segmenter

if TYPE_CHECKING:
    from sfseg.networks.backbones.pyramid import TimmPyramid

HeadFactory = Callable[[tuple[int, ...], int], nn.Module]
"""Builds a head from the widths of the feature maps, finest first, and the number of classes."""


@runtime_checkable
class TakesClassifier(Protocol):
    """A head that begins with layers of the classifier that a pretrained backbone leaves out."""

    def load_classifier(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Fill them from the named tensors of the whole pretrained model."""


def build_segmenter(  # noqa: PLR0913 - one argument for each key of backbone.network
    *,
    name: str,
    head: HeadFactory,
    num_classes: int,
    pretrained: bool = False,
    weights: str | None = None,
    checkpoint: str | None = None,
    drop_path_rate: float = 0.0,
    output_norms: bool | None = None,
    norm_eps: float | None = None,
    gradient_checkpointing: bool = False,
    output_stride: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    aux: HeadFactory | None = None,
    aux_level: int = -2,
    align_corners: bool = False,
    batch_norm: BatchNormPolicy = "train",
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002 - the name users know from torch
) -> Segmenter:
    """A segmenter with random, downloaded or local weights of its backbone or of all its parts.

    Args:
        name: ``tiny``, ``mit_b0`` to ``mit_b5``, a VGG or any timm model with feature maps at
            strides 4, 8, 16 and 32.
        head: called with the widths of the feature maps and ``num_classes``.
        num_classes: number of logits per pixel.
        pretrained: download the backbone's weights through timm.
        weights: local file of backbone weights, used instead of the download.
        checkpoint: local file of a whole segmenter, used instead of both.
        drop_path_rate: probability that the deepest residual branch is skipped in training.
        output_norms: a LayerNorm on each feature map; None means for Swin only.
        norm_eps: of all LayerNorms of the backbone; None for what its authors gave each.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        output_stride: stride of the coarsest map: 32, or 8 or 16 for models that can dilate.
        mean: of the pixels, RGB in [0, 1], which is taken from them; None for what the named
            weights were pretrained with: timm's record, ImageNet's for ``tiny`` and MiT.
        std: their standard deviation, by which they are divided; likewise.
        aux: a second head, called with the width of one map and ``num_classes``.
        aux_level: which map that is, counted as in a list.
        align_corners: see :class:`Segmenter`.
        batch_norm: see :class:`Segmenter`.
        channels_last: store convolution weights in (B, H, W, C) order.
        compile: compile the forward pass in place; names of weights do not change.

    Raises:
        ValueError: the backbone has no weights to download, cannot dilate, has no such map or no
            batch normalisation; both ``weights`` and ``checkpoint`` are given; ``mean`` or
            ``std`` is not of pixels in [0, 1]; ``norm_eps`` is not positive.
        ConfigError: the backbone or its weights cannot be had.
    """
    if weights is not None and checkpoint is not None:
        raise ValueError(
            f"backbone.weights must be null beside backbone.checkpoint={checkpoint}, which holds "
            f"the whole model, got {weights}; give one of them"
        )
    pretrained = pretrained and checkpoint is None
    common: dict[str, Any] = {
        "drop_path_rate": drop_path_rate,
        "gradient_checkpointing": gradient_checkpointing,
    }
    backbone: TinyTransformer | MixTransformer | TimmPyramid
    _require_pixels(mean=mean, std=std)
    pretrained_mean: Sequence[float] = IMAGENET_MEAN
    pretrained_std: Sequence[float] = IMAGENET_STD
    if name == "tiny":
        _require_stride_32(name, output_stride)
        backbone = _tiny(pretrained=pretrained, weights=weights, **common)
    elif name.startswith("mit_"):
        _require_stride_32(name, output_stride)
        backbone = _mit(name, pretrained=pretrained, weights=weights, **common)
    else:
        backbone = _timm(
            name,
            pretrained=pretrained,
            weights=weights,
            output_norms=output_norms,
            output_stride=output_stride,
            **common,
        )
        pretrained_mean, pretrained_std = backbone.mean, backbone.std
    set_norm_eps(backbone, norm_eps)
    decoder = head(backbone.channels, num_classes)
    if (pretrained or weights is not None) and isinstance(decoder, TakesClassifier):
        from sfseg.networks.backbones.pyramid import classifier_tensors

        decoder.load_classifier(classifier_tensors(name, weights), source=weights or name)
    segmenter = Segmenter(
        backbone,
        decoder,
        mean=pretrained_mean if mean is None else mean,
        std=pretrained_std if std is None else std,
        aux_head=None if aux is None else aux((_width(backbone.channels, aux_level),), num_classes),
        aux_level=aux_level,
        align_corners=align_corners,
        batch_norm=batch_norm,
    )
    if checkpoint is not None:
        load_segmenter(segmenter, checkpoint)
    if channels_last:
        segmenter.to(memory_format=torch.channels_last)
    if compile:
        # One graph per size: with symbolic sizes, tracing the windows of a Swin takes hours.
        segmenter.compile(dynamic=False)
    return segmenter


def set_norm_eps(backbone: nn.Module, eps: float | None) -> None:
    """Give all LayerNorms of a backbone the same eps, in place; None leaves them as they are.

    Raises:
        ValueError: it is not positive.
    """
    if eps is None:
        return
    if not eps > 0:
        raise ValueError(
            f"backbone.network.norm_eps must be positive, got {eps}; null for the authors' own"
        )
    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps


def _tiny(*, pretrained: bool, weights: str | None, **options: Any) -> TinyTransformer:
    if pretrained and weights is None:
        raise ValueError(
            "backbone.pretrained must be false for tiny, got true: nobody has published weights "
            "of it; backbone.weights=<file> takes those of a run of yours"
        )
    backbone = TinyTransformer(**options)
    if weights is not None:
        load_backbone(backbone, weights)
    return backbone


def _mit(name: str, *, pretrained: bool, weights: str | None, **options: Any) -> MixTransformer:
    if pretrained and weights is None:
        raise ValueError(
            f"backbone.pretrained must be false for {name}, got true: its weights are under "
            "NVIDIA's non-commercial licence and are not downloaded; backbone.weights="
            f"<{name}.pth> takes the published file"
        )
    backbone = mix_transformer(name, **options)
    if weights is not None:
        load_backbone(backbone, weights)
    return backbone


def _timm(name: str, **options: Any) -> "TimmPyramid":
    from sfseg.networks.backbones.pyramid import TimmPyramid

    return TimmPyramid(name, **options)


def _require_stride_32(name: str, output_stride: int) -> None:
    if output_stride != 32:
        raise ValueError(
            f"backbone.network.output_stride must be 32 for {name}, got {output_stride}; "
            "take 32 or a resnet"
        )


def _require_pixels(**statistics: Sequence[float] | None) -> None:
    for name, values in statistics.items():
        if values is None:
            continue
        divides = name == "std"
        if len(values) != 3 or any(not 0 <= v <= 1 or (divides and v == 0) for v in values):
            raise ValueError(
                f"backbone.network.{name} must be three numbers in {'(' if divides else '['}0, 1], "
                f"of red, green and blue, got {list(values)}; divide those of pixels in 0..255 by "
                "255, or take null for what the backbone was pretrained with"
            )


def _width(channels: tuple[int, ...], level: int) -> int:
    if not -len(channels) <= level < len(channels):
        raise ValueError(
            f"backbone.network.aux_level must be one of the {len(channels)} maps, got {level}; "
            "0 is the finest and -1 the coarsest"
        )
    return channels[level]
