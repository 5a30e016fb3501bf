"""The model every method trains: pixels in, logits per pixel out."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.modes import is_exporting
from sfseg.networks.batch_norm_policy import BatchNormPolicy, require_policy
from sfseg.ops.padding import at_centres, first_cells, valid_cells

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PromptsStages(Protocol):
    """A backbone that also returns what a prompt has made of each stage's input."""

    def forward_features(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]: ...


class PredictsMasks(Protocol):
    """A head of queries, each with a class and a mask."""

    def predictions(self, maps: Sequence[Tensor]) -> list[Any]: ...


class Pictures(NamedTuple):
    """Where the pictures of a batch lie: from the top left corner of its images.

    extents: rows and columns of every picture, in pixels; 0 of one that is not seen.
    padded: height and width of the images as the backbone sees them.
    """

    extents: list[tuple[int, int]]
    padded: tuple[int, int]


class Segmenter(nn.Module):
    """A backbone and a head behind one interface that accepts images of any size.

    The backbone has ``stride_multiple`` and returns feature maps, finest first; the head has
    ``num_classes`` and turns the maps into logits of any smaller size, see
    :class:`sfseg.networks.heads.head.Head`. Normalisation belongs to the model, so loaders hand
    over plain uint8 images. ``pictures`` says where they lie in a batch that is padded, see
    :func:`sfseg.networks.norm_of_pictures.statistics_of_pictures`.

    Args:
        backbone: images (B, 3, H, W) to a list of maps (B, C, H / stride, W / stride).
        head: that list to logits (B, K, h, w).
        mean: RGB mean of the pixels in [0, 1] that the backbone was pretrained with.
        std: their standard deviation.
        aux_head: a second head for :meth:`forward_levels`, which gets a list of one map.
        aux_level: which map that is, counted as in a list; -2 is the last but one.
        align_corners: how the logits are brought to the size of the image: corner pixels keep
            their centres, as in the code of AdaptSegNet, ADVENT and BDL, or the image its borders.
        batch_norm: what of the backbone's batch normalisation does not train.

    Raises:
        ValueError: ``batch_norm`` is unknown or freezes what the backbone does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        aux_head: nn.Module | None = None,
        aux_level: int = -2,
        align_corners: bool = False,
        batch_norm: BatchNormPolicy = "train",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.aux_level = aux_level
        self.align_corners = align_corners
        self.batch_norm = batch_norm
        self.pictures: Pictures | None = None
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._frozen: set[str] = set()
        require_policy(batch_norm, has_norms=any(self._batch_norms()))
        if batch_norm in ("frozen_affine", "frozen"):
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self._hold_statistics()

    @property
    def num_classes(self) -> int:
        return cast(int, self.head.num_classes)

    def normalize(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Centred and scaled pixels; expects uint8 in 0..255 or floats in [0, 1]."""
        pixels = image.to(self.mean.dtype)
        if is_exporting():
            scale = self.std if image.is_floating_point() else 255 * self.std
            return pixels * (1 / scale) - self.mean / self.std  # two operations for three
        pixels = pixels if image.is_floating_point() else pixels / 255
        return (pixels - self.mean) / self.std

    def prepared(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """What the backbone is shown of the image: normalised, and padded where it must be."""
        return self.padded(self.normalize(image))

    def features(self, image: Shaped[Tensor, "B 3 H W"]) -> list[Tensor]:
        """The backbone's feature maps of the image, padded where it must be."""
        maps: list[Tensor] = self.backbone(self.prepared(image))
        return maps

    def forward(
        self,
        image: Shaped[Tensor, "B 3 H W"],
        *,
        levels: bool = False,
        adapted: bool = False,
        enlarged: bool = True,
        with_maps: bool = False,
        masks: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, list[Tensor]] | list[Any]:
        """Logits (B, K, H, W) at the size of the image.

        With ``levels`` of both heads, with ``adapted`` as :meth:`forward_adapted`, which alone
        looks at ``enlarged``, ``with_maps`` beside the backbone's maps of the padded image, finest
        first; with ``masks`` the predictions of a mask head instead, of the padded image.
        """
        if adapted:
            prompted = cast(PromptsStages, self.backbone)
            maps, inputs = prompted.forward_features(self.prepared(image))
            logits: Tensor = self.head(maps)
            return (self.enlarge(logits, image) if enlarged else logits), inputs
        maps = self.features(image)
        if masks:
            return cast(PredictsMasks, self.head).predictions(maps)
        logits = self.enlarge(self.head(maps), image)
        if with_maps:
            return logits, maps
        if not levels:
            return logits
        auxiliary: Tensor = cast(nn.Module, self.aux_head)([maps[self.aux_level]])
        return logits, self.enlarge(auxiliary, image)

    def forward_adapted(
        self, image: Shaped[Tensor, "B 3 H W"], *, enlarged: bool = True
    ) -> tuple[Float[Tensor, "B K y x"], list[Tensor]]:
        """Logits at the size of the image, and what a prompt has made of each stage's input.

        The latter are maps (B, C, h, w) of the padded image, finest first. Logits that are not to
        be ``enlarged`` are of the head's own size and of the padded image too.

        Raises:
            ConfigError: the backbone has no prompt.
        """
        if not hasattr(self.backbone, "forward_features"):
            raise ConfigError(
                "the network must have a prompt adapter, got "
                f"{type(self.backbone).__name__}; set method.adapter"
            )
        return cast(tuple[Tensor, list[Tensor]], self(image, adapted=True, enlarged=enlarged))

    def forward_levels(
        self, image: Shaped[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B K H W"], Float[Tensor, "B K H W"]]:
        """Logits of the head and of the auxiliary head, both at the size of the image.

        Raises:
            ConfigError: there is no auxiliary head.
        """
        if self.aux_head is None:
            raise ConfigError(
                "backbone.aux must be a head for training on two levels, got null; "
                "choose backbone=resnet101_deeplabv2_multi or set backbone.aux"
            )
        # Called, not `forward`ed, so that hooks and a compiled network are not passed by.
        return cast(tuple[Tensor, Tensor], self(image, levels=True))

    def enlarge(
        self, logits: Float[Tensor, "B K h w"], image: Shaped[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B K H W"]:
        """Scores of the padded image, of any smaller size, brought to the pixels of the image."""
        padded = self.padded_size(image)
        return _enlarged(logits, padded, _grid(image), align_corners=self.align_corners)

    def enlarge_view(
        self,
        logits: Float[Tensor, "B K h w"],
        view: tuple[int, int],
        size: tuple[int, int],
        *,
        align_corners: bool,
    ) -> Float[Tensor, "B K H W"]:
        """Scores of a resized image brought straight to the pixels of the image, in one step.

        Args:
            logits: of the view, padded.
            view: size at which the image was shown.
            size: of the image.
            align_corners: of the resizing.
        """
        height, width = (
            round(pixels * (side + self._missing(side)) / side)
            for pixels, side in zip(size, view, strict=True)
        )
        return _enlarged(logits, (height, width), size, align_corners=align_corners)

    def without_padding(
        self, maps: Shaped[Tensor, "B *C h w"], image: Shaped[Tensor, "B *c H W"]
    ) -> Shaped[Tensor, "B *C y x"]:
        """Maps, or features, of the image alone: not of its padding, bottom and right."""
        rows, columns = (
            -(-cells * side // (side + self._missing(side)))
            for cells, side in zip(maps.shape[-2:], image.shape[-2:], strict=True)
        )
        return maps[..., :rows, :columns]

    def padded(
        self, pixels: Shaped[Tensor, "B *c h w"], *, value: int = 0
    ) -> Shaped[Tensor, "B *c H W"]:
        """Normalised images, or labels, as large as the backbone sees them.

        Args:
            pixels: padded below and to the right only, so that they keep their coordinates.
            value: of the padding; 0 is the mean colour.
        """
        bottom, right = map(self._missing, pixels.shape[-2:])
        # Whether an example needs padding says nothing of the images that an exported network gets.
        if is_exporting() or bottom or right:
            return F.pad(pixels, (0, right, 0, bottom), value=value)
        return pixels

    def padded_size(self, image: Shaped[Tensor, "..."]) -> tuple[int, int]:
        """Height and width of an image as the backbone sees it."""
        height, width = (side + self._missing(side) for side in image.shape[-2:])
        return height, width

    def at_cells(
        self, label: Shaped[Tensor, "B H W"], maps: Shaped[Tensor, "B C h w"], *, outside: int
    ) -> Shaped[Tensor, "B h w"]:
        """What lies at the centres of the cells of maps of the padded image.

        Args:
            label: of the image's pixels, such as class ids.
            maps: of the backbone or of a head, as they are made: with their padding.
            outside: of cells whose centre is in the padding.
        """
        return at_centres(label, _grid(maps), padded=self.padded_size(label), outside=outside)

    def cells_of_pictures(
        self, valid: Bool[Tensor, "B H W"] | None, maps: Shaped[Tensor, "B C h w"]
    ) -> Bool[Tensor, "B h w"] | None:
        """The cells of maps that belong to pictures, cut as by :meth:`without_padding`.

        See :func:`sfseg.ops.padding.valid_cells`.

        Args:
            valid: pixels of the image.
            maps: of the backbone or of a head, as they are made: with their padding.
        """
        if valid is None:
            return None
        cells = valid_cells(valid, _grid(maps), padded=self.padded_size(valid))
        return self.without_padding(cells, valid)

    def freeze(self, *parts: nn.Module | str) -> "Segmenter":
        """Stops the training of parts, given as submodules or by their names.

        They receive no gradient and stay in eval mode when the segmenter is put in train mode:
        statistics of normalisation layers do not move, dropout and stochastic depth are off.

        Raises:
            ValueError: a part does not belong to this segmenter.
        """
        names = {module: name for name, module in self.named_modules()}
        for part in parts:
            name = part if isinstance(part, str) else names.get(part)
            if name is None or name not in names.values():
                shown = part if isinstance(part, str) else type(part).__name__
                raise ValueError(
                    f"parts must be submodules of the segmenter, got {shown}; "
                    f"give one of {', '.join(dict(self.named_children()))} or a name below them"
                )
            self.get_submodule(name).requires_grad_(False)
            self._frozen.add(name)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        self._hold_statistics()
        return self

    def _hold_statistics(self) -> None:
        if self.batch_norm in ("frozen_statistics", "frozen"):
            for norm in self._batch_norms():
                norm.eval()

    def _batch_norms(self) -> Iterator[nn.Module]:
        # Looked up each time: Lightning may replace them by synchronised ones.
        kind = nn.modules.batchnorm._BatchNorm
        return (module for module in self.backbone.modules() if isinstance(module, kind))

    def _missing(self, side: int) -> int:
        multiple = cast(int, self.backbone.stride_multiple)
        # Not `-side % multiple`: an exporter sees from this that padded sides are multiples.
        return (side + multiple - 1) // multiple * multiple - side


def _enlarged(
    logits: Float[Tensor, "B K h w"],
    padded: tuple[int, int],
    size: tuple[int, int],
    *,
    align_corners: bool,
) -> Float[Tensor, "B K H W"]:
    """Scores brought to the padded size, of which the image's is kept."""
    if tuple(logits.shape[-2:]) != padded:
        logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=align_corners)
    return first_cells(logits, size)


def _grid(maps: Shaped[Tensor, "B C h w"]) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
