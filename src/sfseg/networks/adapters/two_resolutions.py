"""HRDA's network (Hoyer et al., ECCV 2022, arXiv:2204.13132): wide context and fine detail."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from sfseg.checks import require_shares
from sfseg.errors import ConfigError
from sfseg.modes import evaluating
from sfseg.networks.heads.multi_head import ExtendedSegmenter
from sfseg.networks.heads.scale_attention import attention_like
from sfseg.networks.layers import resize
from sfseg.networks.norm_of_pictures import looking_through
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.scale_fusion import Corner, corners, fused, mean_of_windows

PROBED = 32
"""Pixels along a side, or a multiple, of an image that a head's cells are counted in."""


class Detail(NamedTuple):
    """What a network says of a window of its images alone.

    logits: (B, K, h, w) of the window's pixels.
    rows, columns: the window in pixels of the image.
    weight: of a loss on them; that on the whole image has the rest of 1.
    """

    logits: Tensor
    rows: slice
    columns: slice
    weight: float

    def of(self, maps: Shaped[Tensor, "B *C H W"]) -> Shaped[Tensor, "B *C h w"]:
        """The window of maps of the image's size."""
        return maps[..., self.rows, self.columns]


class Cells(NamedTuple):
    """What sizes must be multiples of, in pixels of the image, so that all cells are whole.

    stride: side of a cell of the fused logits, which is one of the head's.
    factor: sides of the image to those of the context.
    of_windows: sides of windows.
    of_images: sides of images, which are padded to them.
    """

    stride: int
    factor: int
    of_windows: int
    of_images: int

    @classmethod
    @torch.no_grad()
    def of(cls, network: Segmenter, context_scale: float) -> "Cells":
        """Those of a network, which is shown an image to find out."""
        factor = round(1 / context_scale) if 0 < context_scale <= 1 else 0
        if not factor or not math.isclose(factor * context_scale, 1, rel_tol=1e-3):
            raise ValueError(
                f"context_scale must be one over a whole number, such as 0.5, got {context_scale}"
            )
        multiple = cast(int, network.backbone.stride_multiple)
        side = math.lcm(PROBED, multiple)
        with evaluating(network):
            maps = network.backbone(network.mean.new_zeros(1, 3, side, side))
            grid: int = network.head(maps).shape[-1]
        if side % grid:
            raise ConfigError(
                f"the head must score whole cells for a network of two resolutions, got {grid} "
                f"along {side} pixels; choose another with backbone/head"
            )
        stride = side // grid
        # Steps from one window to the next are half a window.
        windows = math.lcm(multiple, factor * stride, 2 * stride)
        return cls(stride, factor, windows, math.lcm(factor * multiple, windows))


class TwoResolutions(ExtendedSegmenter):
    """A segmenter that sees the whole image smaller, and windows of it as they are.

    Both are seen by the same backbone and head; scale attention, which a second head learns from
    the context's maps, says of every class and cell which of them counts
    (:func:`sfseg.ops.scale_fusion.fused`). Its features and maps are those of the context.

    Called with an image alone, it looks through windows that overlap by half, all in one pass;
    a training step looks through one window, the same for all images and drawn anew each time.

    Args:
        network: gives its parts, which both then share.
        cells: of the network.
        window: height and width of the detail in pixels; smaller images are looked at whole.
        attention: a number in [0, 1] in place of what is learnt: 0 is the context alone, 1 the
            detail wherever there is one.
        detail_weight: of the loss on the detail's own logits.

    Raises:
        ConfigError: the network has an auxiliary head or is compiled, or windows do not consist of
            whole cells.
        ValueError: a number out of its range, or a head that starts from pretrained layers.
    """

    def __init__(
        self,
        network: Segmenter,
        *,
        cells: Cells,
        window: Sequence[int],
        attention: float | None = None,
        detail_weight: float = 0.1,
    ) -> None:
        _require_plain(network)
        require_shares(detail_weight=detail_weight)
        if attention is not None:
            require_shares(attention=attention)
        super().__init__(network)
        self.attention, self.detail_weight = attention, detail_weight
        self.attention_head = None if attention is not None else attention_like(self.head)
        _require_multiples("method.adapter.window", window, cells.of_windows)
        self.cells = cells
        self.window = (window[0], window[1])
        self.train(network.training)

    def prepared(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """The context, each of whose pixels is the mean of those that it stands for."""
        return F.avg_pool2d(super().prepared(image), self.cells.factor)

    def forward(  # type: ignore[override]
        self,
        image: Shaped[Tensor, "B 3 H W"],
        *,
        with_maps: bool = False,
        with_window: bool = False,
    ) -> Any:
        """Logits (B, K, H, W) at the size of the image, by windows everywhere.

        With ``with_maps`` beside the maps of the context, and with ``with_window`` of a training
        step: logits by one window, the maps, and the window's :class:`Detail`, or None where
        neither the fused logits nor a loss depend on it.

        Raises:
            ConfigError: a training step looks as evaluation does.
        """
        if self.training and torch.is_grad_enabled() and not with_window:
            raise ConfigError(
                "this method cannot train a network of two resolutions, of which it knows nothing; "
                "choose one that learns the source's labels, or set method.adapter=null"
            )
        maps = self.features(image)
        context: Tensor = self.head(maps)
        pixels = super().prepared(image)
        detail = None
        if self.attention == 0 and not (with_window and self.detail_weight):
            grid = [cells * self.cells.factor for cells in context.shape[-2:]]
            logits = self.enlarge(resize(context, grid), image)
        elif with_window:
            logits, detail = self._by_one_window(image, pixels, maps, context)
        else:
            logits = self._by_all_windows(image, pixels, maps, context)
        if with_window:
            return logits, maps, detail
        return (logits, maps) if with_maps else logits

    def _by_one_window(
        self, image: Tensor, pixels: Tensor, maps: list[Tensor], context: Tensor
    ) -> tuple[Tensor, Detail]:
        corner, size = self._drawn_corner(image), self._window_of(pixels)
        scores = self._scores(pixels, [corner], size)[0]
        logits = self._fused(maps, context, scores, corner)
        ends = [
            slice(begin, min(begin + side, whole))
            for begin, side, whole in zip(corner, size, image.shape[-2:], strict=True)
        ]
        enlarged = F.interpolate(
            scores, size=size, mode="bilinear", align_corners=self.align_corners
        )
        own = enlarged[..., : ends[0].stop - corner[0], : ends[1].stop - corner[1]]
        return self.enlarge(logits, image), Detail(own, ends[0], ends[1], self.detail_weight)

    def _by_all_windows(
        self, image: Tensor, pixels: Tensor, maps: list[Tensor], context: Tensor
    ) -> Tensor:
        size, whole = self._window_of(pixels), (pixels.shape[-2], pixels.shape[-1])
        begins = list(corners(whole, size))
        stride = self.cells.stride
        cells = [(top // stride, left // stride) for top, left in begins]
        grid = (whole[0] // stride, whole[1] // stride)
        detail = mean_of_windows(self._scores(pixels, begins, size), cells, grid)
        return self.enlarge(self._fused(maps, context, detail, (0, 0)), image)

    def _scores(
        self, pixels: Tensor, begins: list[Corner], size: tuple[int, int]
    ) -> list[Float[Tensor, "B K y x"]]:
        """The head's logits of windows, in its cells; all windows are one batch."""
        windows = [pixels[..., y : y + size[0], x : x + size[1]] for y, x in begins]
        with looking_through(self, begins, size):
            logits: Tensor = self.head(self.backbone(torch.cat(windows)))
        return list(torch.split(logits, len(pixels)))

    def _fused(
        self, maps: list[Tensor], context: Tensor, detail: Tensor, corner: Corner
    ) -> Float[Tensor, "B K y x"]:
        if self.attention_head is None:
            attention = context.new_full((1, 1, *context.shape[-2:]), cast(float, self.attention))
        else:
            attention = self.attention_head(maps).sigmoid()
        cell = (corner[0] // self.cells.stride, corner[1] // self.cells.stride)
        return fused(context, attention, detail, factor=self.cells.factor, corner=cell)

    def _window_of(self, pixels: Tensor) -> tuple[int, int]:
        height, width = pixels.shape[-2:]
        return min(self.window[0], height), min(self.window[1], width)

    def _drawn_corner(self, image: Tensor) -> Corner:
        """Whole cells of the context before a window, which begins where all pictures are."""
        ends = [image.shape[-2:]] if self.pictures is None else self.pictures.extents
        unit = self.cells.factor * self.cells.stride
        # On the processor, so that a restart repeats it and a GPU is not waited for.
        top, left = (
            unit * int(torch.randint(max(min(sides) - side, 0) // unit + 1, (), device="cpu"))
            for sides, side in zip(zip(*ends, strict=True), self.window, strict=True)
        )
        return top, left

    def _missing(self, side: int) -> int:
        return -side % self.cells.of_images


def with_two_resolutions(
    network: Segmenter,
    *,
    source_crop: Sequence[int] | None = None,
    target_crop: Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    context_scale: float = 0.5,
    **options: Any,
) -> TwoResolutions:
    """The segmenter as HRDA has it; see :class:`TwoResolutions`.

    Tensors of scale attention are named ``attention_head.*``, all others keep their names.

    Args:
        network: gives its parts, which both then share.
        source_crop: height and width of the source's training crops; None: none are drawn.
        target_crop: of the target's.
        window: of the detail; None is half of the sides of the target's crops.
        context_scale: of the context's sides to the image's; one over a whole number.
        **options: of :class:`TwoResolutions`.

    Raises:
        ConfigError: crops or windows do not consist of whole cells; it names the setting.
    """
    cells = Cells.of(network, context_scale)
    if source_crop is not None:
        _require_multiples("data.source_view.crop", source_crop, cells.of_images)
    if target_crop is not None:
        halved = math.lcm(cells.of_images, 2 * cells.of_windows)
        multiple = halved if window is None else cells.of_images
        _require_multiples("data.target_crop", target_crop, multiple)
        window = window or [side // 2 for side in target_crop]
    if window is None:
        raise ConfigError(
            "method.adapter.window must be [height, width] where the target's crops have no size, "
            "got null; set it, or data.target_crop"
        )
    return TwoResolutions(network, cells=cells, window=window, **options)


def _require_plain(network: Segmenter) -> None:
    if isinstance(network, ExtendedSegmenter):
        raise ConfigError(
            "the network must have one head for two resolutions, got "
            f"{type(network).__name__}; set method.source_adapter=null"
        )
    if network.aux_head is not None:
        raise ConfigError(
            "backbone.aux must be null for a network of two resolutions, which has one head; "
            "choose a backbone without an auxiliary head"
        )
    if network._compiled_call_impl is not None:
        raise ConfigError(
            "backbone.compile must be false for a network of two resolutions, whose windows lie "
            "elsewhere in every step, got true"
        )


def _require_multiples(setting: str, sides: Sequence[int], multiple: int) -> None:
    if len(sides) == 2 and all(side > 0 and side % multiple == 0 for side in sides):
        return
    lower = [max(multiple, side // multiple * multiple) for side in sides]
    upper = [max(multiple, -(-side // multiple) * multiple) for side in sides]
    raise ConfigError(
        f"{setting} must be [height, width] in multiples of {multiple} for this network of two "
        f"resolutions, got {list(sides)}; take {lower} or {upper}"
    )
