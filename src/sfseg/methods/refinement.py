"""Pseudo-labels that follow the outlines of objects, by a segment-anything model.

The step of CLOUDS (Benigmim et al., CVPR 2024, arXiv:2312.09788) between a teacher and what is
learnt from it, for the labels of any method.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from sfseg.checks import require_shares, require_whole
from sfseg.ops.components import Component, components, random_points
from sfseg.ops.mask_labels import claimed_label
from sfseg.pseudo.embeddings import Embeddings
from sfseg.randomness import generator


class Prompted(Protocol):
    """What answers points with masks, see :class:`sfseg.networks.sam.SegmentAnything`."""

    @property
    def digest(self) -> str: ...

    def embed(self, image: Tensor) -> tuple[Tensor, ...]: ...

    def masks(
        self, embedding: tuple[Tensor, ...], points: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]: ...


class Tally(NamedTuple):
    """What a refiner has done to some images.

    images: how many; unrefined: of these, those without a component that is large enough, which
        have kept their labels.
    components: of all images; kept: those that are large enough.
    pixels: of all images; changed: those that have got another label, or none.
    """

    images: int = 0
    unrefined: int = 0
    components: int = 0
    kept: int = 0
    pixels: int = 0
    changed: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Of both sets of images."""
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def shares(self) -> dict[str, float]:
        """In [0, 1], by name: of pixels, of components and of images."""
        return {
            "refined_pixels": self.changed / max(self.pixels, 1),
            "kept_components": self.kept / max(self.components, 1),
            "unrefined_images": self.unrefined / max(self.images, 1),
        }

    def __str__(self) -> str:
        pixels, kept, unrefined = (100 * share for share in self.shares().values())
        return (
            f"{pixels:.1f} % of the pixels refined, {kept:.1f} % of {self.components:,} components "
            f"kept, {unrefined:.1f} % of {self.images:,} images without any stay as they were"
        )


class Refiner:
    """Asks a segment-anything model for the object at each large component of a label map.

    The class of a component goes to the pixels of its mask; pixels that no mask claims get no
    label. A map without a large component stays as it is.

    A mirrored view of an image gets the mirrored label, to the bit, and needs no second embedding:
    of both, the one that comes first in the order of their bytes is looked at.

    Args:
        model: answers points with masks.
        seed: of the run; points follow from it and from what :meth:`refine` is given.
        points: drawn in each component.
        min_share: of the image's pixels, above which a component counts; 0.008478 is the 5000 of
            768x768 pixels of CLOUDS' release.
        clear_overlaps: see :func:`sfseg.ops.mask_labels.claimed_label`.
        embeddings: where those of images are kept that come again; None: nowhere.
        views_come_again: whether images of training batches do, as they are shown or mirrored.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        model: Prompted,
        *,
        seed: int = 0,
        points: int = 5,
        min_share: float = 0.008478,
        clear_overlaps: bool = True,
        embeddings: Embeddings | None = None,
        views_come_again: bool = False,
    ) -> None:
        require_whole(1, points=points)
        require_shares(min_share=min_share)
        self.model, self.seed, self.points = model, seed, points
        self.min_share, self.clear_overlaps = min_share, clear_overlaps
        self.embeddings, self.views_come_again = embeddings, views_come_again
        self._tally = Tally()

    def __deepcopy__(self, memo: object) -> "Refiner":
        """Copies of a method share what does not train."""
        return self

    def taken(self) -> Tally:
        """What has been done since this was last asked."""
        tally, self._tally = self._tally, Tally()
        return tally

    @torch.no_grad()
    def refine(
        self,
        image: UInt8[Tensor, "B 3 H W"],
        label: Integer[Tensor, "B H W"],
        seeds: Sequence[int],
        *,
        comes_again: bool = True,
    ) -> Integer[Tensor, "B H W"]:
        """Refined labels, of the same type and on the same device.

        Args:
            image: RGB from 0 to 255, as it is shown whole, without distortion.
            label: class ids; IGNORE where there is none.
            seeds: a number of each image, 0 or more, by which its points are drawn.
            comes_again: these images will be given again, so that their embeddings are kept.

        Raises:
            ValueError: images are of another type, or their labels of another size.
        """
        if image.dtype != torch.uint8 or label.shape != (len(image), *image.shape[2:]):
            raise ValueError(
                f"image must be uint8 (B, 3, H, W) and label (B, H, W), got {image.dtype} of "
                f"{tuple(image.shape)} and {tuple(label.shape)}"
            )
        store = self.embeddings if comes_again else None
        each = zip(image, label, seeds, strict=True)
        return torch.stack([self._refined(*one, store) for one in each])

    def _refined(self, image: Tensor, label: Tensor, seed: int, store: Embeddings | None) -> Tensor:
        content, is_mirrored = _first_of_views(image)
        if is_mirrored:
            image, label = image.flip(-1), label.flip(-1)
        found = components(
            label.to(torch.uint8).cpu().numpy(), least=self.min_share * label.numel()
        )
        refined = label
        if found.kept:
            embedding = self._embedding(image[None], content, store)
            refined = self._united(embedding, found.kept, label, seed)
        changed = int((refined != label).sum())
        self._tally = self._tally.plus(
            Tally(1, not found.kept, found.total, len(found.kept), label.numel(), changed)
        )
        return refined.flip(-1) if is_mirrored else refined

    def _embedding(
        self, image: Tensor, content: bytes, store: Embeddings | None
    ) -> tuple[Tensor, ...]:
        if store is None:
            return self.model.embed(image)
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "exact"
        network = f"{self.model.digest} {precision}"
        return store.get(content, network, lambda: self.model.embed(image), image.device)

    def _united(
        self, embedding: tuple[Tensor, ...], kept: list[Component], label: Tensor, seed: int
    ) -> Tensor:
        """The label map that the masks of components make."""
        rng = generator(self.seed, 0, seed, "points of components")
        prompts = [random_points(component, self.points, rng) for component in kept]
        size = (label.shape[0], label.shape[1])
        # Prompts of one call have as many points each: a small component may have fewer.
        masks = label.new_empty((len(kept), *size), dtype=torch.bool)
        scores = torch.empty(len(kept), device=label.device)
        lengths = np.array([len(points) for points in prompts])
        for length in np.unique(lengths):
            own = np.flatnonzero(lengths == length).tolist()
            points = torch.from_numpy(np.stack([prompts[k] for k in own])).float()
            masks[own], scores[own] = self.model.masks(embedding, points.to(label.device), size)
        classes = torch.tensor([component.label for component in kept])
        united = claimed_label(masks, classes, scores, clear_overlaps=self.clear_overlaps)
        return united.to(label.dtype)


def _first_of_views(image: Tensor) -> tuple[bytes, bool]:
    """Bytes and size of an image or of its mirror image, and whether it is the latter."""
    pixels = image.cpu().numpy()
    own, mirrored = pixels.tobytes(), np.ascontiguousarray(pixels[..., ::-1]).tobytes()
    return f"{pixels.shape}".encode() + min(own, mirrored), mirrored < own
