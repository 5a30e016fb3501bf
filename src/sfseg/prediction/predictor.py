"""A network as a function of pictures of any size."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfseg.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sfseg.data.geometry import Size, SizeRule
    from sfseg.ops.inference import Predict
    from sfseg.prediction.smoothing import Smoothing
    from sfseg.report.drawing import Pixels

log = logging.getLogger(__name__)

TILE_PIXELS = 1 << 21
"""What a network sees at once, unless another number is given."""
LEAST_TILE = 64 * 64
"""Pixels; a smaller tile would show a network nothing."""


class Predictor:
    """A network as a function of pictures of any size.

    Args:
        network: in eval mode.
        inference: evaluation protocol.
        device: where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        precision: in what, by Lightning's names, such as ``bf16-mixed``.
        rule: which size the network sees.
        tile_pixels: what the network sees at once, unless ``inference`` shows it less.

    Raises:
        ConfigError: a device or a precision that cannot be had, or tiles too small.
    """

    def __init__(
        self,
        network: "nn.Module",
        inference: Any,
        *,
        device: "str | torch.device",
        precision: object,
        rule: "SizeRule",
        tile_pixels: int,
    ) -> None:
        if not isinstance(tile_pixels, int) or tile_pixels < LEAST_TILE:
            raise ConfigError(
                f"tile_pixels must be a whole number from {LEAST_TILE}, got {tile_pixels}"
            )
        self.network = network
        self.inference = inference
        self.rule = rule
        self.tile_pixels = tile_pixels
        self._asked = precision
        self._has_said = False
        self.to(device)

    def to(self, device: "str | torch.device") -> None:
        """Move the network to a device.

        Raises:
            ConfigError: it cannot be used, or not with the precision.
        """
        import torch

        from sfseg.prediction.precision import converted, full_name

        available = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(available if device == "auto" else device)
            network = self.network.to(self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device={device} cannot be used: {reason}; try auto") from error
        try:
            self.precision = full_name(self._asked, self.device)
        except ValueError as error:
            raise ConfigError(f"precision={self._asked} cannot be used: {error}") from error
        self.network = converted(network, self.precision)

    def __call__(
        self, image: "Pixels", path: Path | str, smoothing: "Smoothing | None" = None
    ) -> "tuple[Pixels, Pixels]":
        """An (H, W, 3) image to class ids (H, W) and confidence (H, W) in 0..255.

        Args:
            image: RGB.
            path: what it is called in messages.
            smoothing: what remembers the images before it, of a video.
        """
        from sfseg.ops.tiles import predict_tiles

        full = (image.shape[0], image.shape[1])
        if self.is_whole(full):
            return self.together([image], smoothing)[0]
        import torch

        with torch.inference_mode():
            tensor, size = self._shown([image])
            self._say(size, path)
            scores = self._remembering(smoothing)
            label, confidence = predict_tiles(scores, tensor, full, self.tile_pixels)
            return label.numpy(), confidence.numpy()

    @property
    def too_large(self) -> str:
        """What a picture is that the memory does not hold, and the ways out."""
        return (
            "too large for the memory: set evaluation=slide, a smaller tile_pixels (now "
            f"{self.tile_pixels}), or input_size=<length of the shorter side>"
        )

    def is_whole(self, full: "Size") -> bool:
        """Whether pictures of a size (height, width) are seen at once, not in tiles."""
        from sfseg.data.geometry import fitting_size

        size = fitting_size(self.rule, full)
        return max(full[0] * full[1], size[0] * size[1]) <= self.tile_pixels

    def together(
        self, images: "Sequence[Pixels]", smoothing: "Smoothing | None" = None
    ) -> "list[tuple[Pixels, Pixels]]":
        """Ids and confidence of images of one size, which :meth:`is_whole`, in one pass."""
        import torch

        from sfseg.ops.inference import resize

        with torch.inference_mode():
            tensor, _ = self._shown(images)
            scores = self._remembering(smoothing)(tensor)
            logits = resize(scores.float(), (images[0].shape[0], images[0].shape[1]))
            probability, classes = logits.softmax(dim=1).max(dim=1)
            confidence = (probability * 255).round().to(torch.uint8).cpu().numpy()
            return list(zip(classes.to(torch.uint8).cpu().numpy(), confidence, strict=True))

    def _shown(self, images: "Sequence[Pixels]") -> "tuple[Tensor, Size]":
        """(B, 3, h, w) on the device, and the size."""
        import numpy as np
        import torch

        from sfseg.data.geometry import fitting_size, resize_image

        size = fitting_size(self.rule, (images[0].shape[0], images[0].shape[1]))
        seen = np.stack([resize_image(image, size) for image in images])
        return torch.from_numpy(seen).permute(0, 3, 1, 2).to(self.device), size

    def _remembering(self, smoothing: "Smoothing | None") -> "Predict":
        if smoothing is None:
            return self.forward
        memory = smoothing
        memory.begin_image()
        return lambda image: memory(self.forward(image))

    def forward(self, image: "Tensor") -> "Tensor":
        """Scores (B, K, H, W) of what the network is shown, (B, 3, H, W) on its device."""
        import torch

        with torch.inference_mode(), self._computing():
            scores: Tensor = self.inference(self.network, image)
        return scores

    def _computing(self) -> AbstractContextManager[object]:
        from sfseg.prediction.precision import computing

        return computing(self.precision, self.device)

    def _say(self, size: "Size", path: Path | str) -> None:
        """Log once that pictures are cut."""
        from sfseg.ops.tiles import tiling

        rows, columns = tiling(size, self.tile_pixels)
        if len(rows) * len(columns) == 1 or self._has_said:
            return
        self._has_said = True
        log.info(
            "%s is seen in %d tiles, since the network would see %dx%d pixels, more than "
            "tile_pixels=%d; larger pictures likewise. input_size shows it smaller",
            path, len(rows) * len(columns), size[1], size[0], self.tile_pixels,
        )  # fmt: skip
