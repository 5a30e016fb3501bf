"""Any timm model as a pyramid of feature maps."""

import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants as hub
from jaxtyping import Float
from timm.models import checkpoint_seq, load_pretrained, split_model_name_tag
from timm.models.vgg import VGG
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.backbones.recomputing import SeenOnce
from sfseg.networks.backbones.stages import run_stages
from sfseg.networks.backbones.swin import pad_before_roll
from sfseg.networks.weights.checkpoint import load_backbone, load_tensors

STRIDES = (4, 8, 16, 32)
FROM_FULL_SIZE = (1, 2, *STRIDES)


class TimmPyramid(nn.Module):
    """Feature maps of a timm model, finest first, with their ``channels`` and ``strides``.

    ``mean`` and ``std`` are of the pixels that the weights of its name were pretrained with, RGB
    in [0, 1].

    Hierarchical models give maps at strides 4, 8, 16 and 32. With an ``output_stride`` of 8 or 16
    a ResNet stops halving there and dilates instead, in DeepLab's pattern. VGG gives all its six:
    the end of each stage at strides 1, 2, 4, 8 and 16, and the last one pooled, at 32.

    Swin models take any input size and pad before they roll, as the authors' segmentation code
    does; timm rolls first, which changes the last map by several percent at 512x512.

    Args:
        name: a timm model, with or without the tag of its weights.
        pretrained: load timm's weights, from its cache or from the network.
        weights: a local file with timm's, mmseg's or open_clip's names of weights, used instead.
            A classifier, a head or the text side of CLIP in it is not loaded.
        drop_path_rate: probability that the deepest residual branch is skipped in training.
        output_norms: a LayerNorm on each map; None means for Swin only, as in the reference.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        output_stride: 32, or 8 or 16 for models that can dilate.

    Raises:
        ValueError: timm has no such model, it has no maps at these strides or cannot dilate.
        ConfigError: the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        drop_path_rate: float = 0.0,
        output_norms: bool | None = None,
        gradient_checkpointing: bool = False,
        output_stride: int = STRIDES[-1],
    ) -> None:
        super().__init__()
        is_swin = _architecture(name) in timm.list_models(module="swin_transformer")
        self.is_staged = is_swin
        # Not every model knows drop_path_rate, so it is only passed on when asked for.
        options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        if is_swin:
            options |= {"strict_img_size": False, "always_partition": True}
        trunk = _trunk(name, output_stride, options)
        self.channels, self.strides = _widths_and_strides(trunk, name, output_stride)
        pretraining = cast(dict[str, Any], trunk.pretrained_cfg)
        self.mean: tuple[float, ...] = tuple(pretraining["mean"])
        self.std: tuple[float, ...] = tuple(pretraining["std"])
        # Swin pads its own maps; the others drop or invent a row unless every stage halves evenly.
        self.stride_multiple = self.strides[0] if is_swin else self.strides[-1]

        if weights is None and pretrained:
            _download(trunk, name)
        complete = set(trunk.state_dict())
        prune = cast(Callable[..., list[int]], trunk.prune_intermediate_layers)
        self.indices = prune(len(self.strides), prune_norm=True, prune_head=True)
        pruned = complete - set(trunk.state_dict())
        if is_swin:
            pad_before_roll(trunk)
        self.seen_once = SeenOnce() if gradient_checkpointing else None
        if gradient_checkpointing:
            cast(Callable[[bool], None], trunk.set_grad_checkpointing)(True)
        self.trunk = trunk
        normalised = is_swin if output_norms is None else output_norms
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if normalised else nn.Identity() for width in self.channels
        )
        if weights is not None:
            _load(self, weights, pruned=pruned)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), finest first."""
        if self.is_staged:
            return run_stages(self, image)
        forward = cast(Callable[..., list[Tensor]], self.trunk.forward_intermediates)
        first = nullcontext() if self.seen_once is None else self.seen_once.first_pass(self.trunk)
        with first:
            maps = forward(image, indices=self.indices, intermediates_only=True)
        return [
            norm(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for norm, feature in zip(self.norms, maps, strict=True)
        ]

    def embed(self, stage: int, x: Tensor) -> Float[Tensor, "B h w c"]:
        """Tokens that enter a stage of a Swin; see :mod:`sfseg.networks.backbones.stages`."""
        halve = "patch_embed" if stage == 0 else f"layers.{stage}.downsample"
        tokens: Tensor = self.trunk.get_submodule(halve)(x)
        return tokens

    def run(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Tokens that leave a stage of a Swin, not normalised."""
        layer = self.trunk.get_submodule(f"layers.{stage}")
        blocks = layer.get_submodule("blocks")
        left: Tensor = (
            checkpoint_seq(blocks, tokens)
            if layer.grad_checkpointing and torch.is_grad_enabled()
            else blocks(tokens)
        )
        return left

    def finish(self, stage: int, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B C H W"]:
        """The map that a stage of a Swin hands to the head."""
        normalised: Tensor = self.norms[stage](tokens)
        return normalised.permute(0, 3, 1, 2)


def _architecture(name: str) -> str:
    architecture: str = split_model_name_tag(name)[0]
    if not timm.is_model(architecture):
        raise ValueError(
            f"backbone.network.name must be tiny, mit_b0 to mit_b5 or a timm model, got {name}; "
            "timm.list_models() names them"
        )
    return architecture


def _trunk(name: str, output_stride: int, options: dict[str, Any]) -> nn.Module:
    # Not every model knows output_stride either.
    if output_stride == STRIDES[-1]:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, output_stride=output_stride, **options)
    except (TypeError, AssertionError) as cause:
        raise ValueError(
            f"backbone.network.output_stride must be 32, or 8 or 16 for models that can dilate, "
            f"got {output_stride} for {name}; take 32 or a resnet"
        ) from cause


def _widths_and_strides(
    trunk: nn.Module, name: str, output_stride: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    levels = cast(list[dict[str, Any]], list(getattr(trunk, "feature_info", [])))
    if [level["reduction"] for level in levels] != list(FROM_FULL_SIZE):
        levels = levels[-len(STRIDES) :]
    strides = tuple(level["reduction"] for level in levels)
    wanted = tuple(min(stride, output_stride) for stride in STRIDES)
    if strides not in (wanted, FROM_FULL_SIZE) or not hasattr(trunk, "prune_intermediate_layers"):
        raise ValueError(
            f"backbone.network.name must be a model with feature maps at strides {wanted}, "
            f"got {name} with {strides}; take a hierarchical one such as swin or resnet"
        )
    return tuple(level["num_chs"] for level in levels), strides


def classifier_tensors(name: str, weights: str | None) -> Mapping[str, Tensor]:
    """All pretrained tensors of a timm model, with those of the classifier no pyramid has.

    Args:
        name: a timm model.
        weights: a local file with timm's names of weights; None for timm's cache or the network.

    Raises:
        ConfigError: the weights cannot be had.
    """
    # A file's tensors are handed on as they are: their model is only asked for its names.
    with torch.device("cpu" if weights is None else "meta"):
        trunk = timm.create_model(name)
    if weights is None:
        _download(trunk, name)
        return cast(Mapping[str, Tensor], trunk.state_dict())
    tensors, convert = load_tensors(weights), _conversion(trunk)
    return tensors if convert is None else convert(tensors, trunk)


def _conversion(trunk: nn.Module) -> Callable[..., Mapping[str, Tensor]] | None:
    """How timm brings older names of a model's weights up to date; it lives next to the model."""
    source = vars(sys.modules[type(trunk).__module__])
    if isinstance(trunk, VGG):
        return lambda tensors, _: cast(Mapping[str, Tensor], source["_filter_fn"](tensors))
    return source.get("checkpoint_filter_fn")


def _download(trunk: nn.Module, name: str) -> None:
    try:
        with _cache_only_when_offline():
            load_pretrained(trunk, filter_fn=_conversion(trunk))
    except Exception as cause:  # each layer of the download raises errors of its own
        raise ConfigError(
            f"backbone.pretrained=true needs the network or a cached file for {name}, got "
            f"{type(cause).__name__}; go online, or give backbone.weights=<file> "
            "(.safetensors or .pth with timm's names), or backbone.pretrained=false to train "
            "from random weights"
        ) from cause


@contextmanager
def _cache_only_when_offline() -> Iterator[None]:
    """Without a network the hub's client would retry for 45 seconds before it gives up."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not _is_reachable(hub.ENDPOINT)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _is_reachable(url: str) -> bool:
    if getproxies():  # only the client knows whether the proxy lets it through
        return True
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=5).close()
    except OSError:
        return False
    return True


def _load(pyramid: TimmPyramid, weights: str, *, pruned: set[str]) -> None:
    trunk = pyramid.trunk
    # Another projection than the one that the trunk has lost is no reason to refuse a file.
    lost = _parts(pruned) - _parts(trunk.state_dict())

    def from_timm(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if any(key.startswith("trunk.") for key in tensors):
            return tensors
        convert = _conversion(trunk)
        # It stumbles over names of other models, which the comparison that follows will list.
        with suppress(AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):
            tensors = tensors if convert is None else convert(dict(tensors), trunk)
        return {
            f"trunk.{key}": tensor
            for key, tensor in tensors.items()
            if key not in pruned and not lost & _parts([key])
        }

    load_backbone(pyramid, weights, adapt=from_timm, optional=("norms.",))


def _parts(keys: Iterable[str]) -> set[str]:
    return {key.split(".")[0] for key in keys}
