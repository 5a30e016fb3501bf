"""Segment anything (Kirillov et al., ICCV 2023; SAM 2: Ravi et al., ICLR 2025): points to masks.

Images are prepared, and masks brought back to their size, as transformers' processors do. Those
themselves would take floats in [0, 1] for such in [0, 255], and fill up prompts of fewer points
with points that change the masks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from sfseg.networks.weights.sam_files import SamFiles, load_sam
from sfseg.ops.mask_labels import best_masks

Embedding = tuple[Tensor, ...]
"""Feature maps (B, C, h, w) of images; SAM has one, SAM 2 three of falling resolution."""

TOGETHER = 32
"""Prompts whose masks are in memory at a time, before each is one bit a pixel."""


class SegmentAnything:
    """A SAM or SAM 2 that answers points with masks; it never trains and is in no checkpoint.

    It moves to where the images are. The encoder computes in the precision that is set around it,
    such as autocast; the decoder, which takes little, in float32, so that points keep their places.

    Args:
        files: the model.
    """

    def __init__(self, files: SamFiles) -> None:
        self.network: Any = files.network.eval().requires_grad_(False)
        self.is_padded = files.kind == "sam"
        self.side = int(self.network.config.prompt_encoder_config.image_size)
        self.mean, self.std = torch.tensor(files.mean), torch.tensor(files.std)
        self._digest = files.digest

    @classmethod
    def load(cls, model: str) -> "SegmentAnything":
        """See :func:`load_sam`."""
        return cls(load_sam(model))

    @property
    def digest(self) -> str:
        """Of all that an embedding depends on beside the image."""
        return f"{self._digest} {self.mean.tolist()} {self.std.tolist()}"

    @torch.no_grad()
    def embed(self, image: UInt8[Tensor, "B 3 H W"]) -> Embedding:
        """What the encoder finds in images of one size.

        Raises:
            ValueError: they are no RGB of 0 to 255 in whole numbers.
        """
        require_rgb(image)
        found = self.network.to(image.device).get_image_embeddings(self._prepared(image))
        maps = (found,) if isinstance(found, Tensor) else found
        return tuple(part.float() for part in maps)

    @torch.no_grad()
    def masks(
        self, embedding: Embedding, points: Float[Tensor, "N P 2"], size: tuple[int, int]
    ) -> tuple[Bool[Tensor, "N H W"], Float[Tensor, " N"]]:
        """The best of three masks for each of N objects of one image, and its predicted IoU.

        Args:
            embedding: of that image alone.
            points: P pixels (x, y) of each object.
            size: height and width of the image.
        """
        network = self.network.to(embedding[0].device)
        placed = self._placed(points.to(embedding[0].device), size)
        maps = embedding[0] if self.is_padded else list(embedding)
        masks, scores = [], []
        with torch.autocast(embedding[0].device.type, enabled=False):
            for some in torch.split(placed, TOGETHER):
                found = network(input_points=some[None], image_embeddings=maps)
                best, score = best_masks(found.pred_masks[0], found.iou_scores[0])
                masks.append(self._enlarged(best, size) > 0)
                scores.append(score)
        return torch.cat(masks), torch.cat(scores)

    def _fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of an image in the square that the network sees: it fills SAM 2's."""
        if not self.is_padded:
            return self.side, self.side
        scale = self.side / max(size)
        height, width = (int(edge * scale + 0.5) for edge in size)
        return height, width

    def _prepared(self, image: Tensor) -> Tensor:
        """Images as the network sees them: (B, 3, side, side), padded after normalisation."""
        from torchvision.transforms.v2 import functional as vision

        height, width = self._fitted((image.shape[-2], image.shape[-1]))
        resized = vision.resize(image, [height, width], antialias=True).float()
        mean, std = (255 * part.to(image.device)[:, None, None] for part in (self.mean, self.std))
        return F.pad((resized - mean) / std, (0, self.side - width, 0, self.side - height))

    def _placed(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Points of the image in the square that the network sees."""
        height, width = self._fitted(size)
        factor = torch.tensor([width / size[1], height / size[0]], dtype=torch.float64)
        return (points.cpu().double() * factor).float().to(points.device)

    def _enlarged(self, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (N, h, w) at the size of the image."""
        maps = masks[None]
        if self.is_padded:
            height, width = self._fitted(size)
            maps = F.interpolate(maps, (self.side, self.side), mode="bilinear")
            maps = maps[..., :height, :width]
        return F.interpolate(maps, size, mode="bilinear")[0]


def require_rgb(image: Tensor) -> None:
    """Refuse what would pass for another picture.

    Raises:
        ValueError: images are no RGB of 0 to 255 in whole numbers.
    """
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            "image must be uint8 of the shape (B, 3, H, W) with values from 0 to 255, got "
            f"{image.dtype} of {tuple(image.shape)}; multiply floats in [0, 1] by 255 and round"
        )
