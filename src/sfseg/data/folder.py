"""The one dataset: scenes (files or drawn) seen through a view."""

from collections.abc import Callable
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sfseg.data.colour import Distortion
from sfseg.data.geometry import Geometry, Image, Size, View, crop_image, crop_label
from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.randomness import generator, seed32
from sfseg.types import IGNORE, Batch

Ticket = tuple[int, int]
"""(pass, index): which sample, and which of its random views."""


class Scenes(Protocol):
    """Images with or without labels, by position; read on demand."""

    @property
    def labels(self) -> LabelSpace: ...
    @property
    def has_labels(self) -> bool: ...
    def __len__(self) -> int: ...
    def name(self, index: int) -> str:
        """Path-like name, unique in the set; for messages and outputs."""
        ...

    def size(self, index: int) -> Size:
        """(height, width) without decoding."""
        ...

    def image(self, index: int) -> Image:
        """(H, W, 3) uint8 RGB."""
        ...

    def label(self, index: int) -> Image:
        """(H, W) uint8 class ids, IGNORE where void."""
        ...


class Sample(TypedDict):
    """One element of a :class:`sfseg.types.Batch`, without the batch axis."""

    image: Tensor
    label: Tensor
    index: int
    geometry: Tensor


class FolderDataset(Dataset[Sample]):
    """Random views for training, whole images for evaluation.

    Args:
        scenes: where images and labels come from.
        view: how training crops are drawn; None shows whole images.
        colour: distortion of training images.
        seed: run seed; with pass and index it determines every random choice.
        purpose: name of the domain, so that domains draw apart.
        use_labels: False never opens a label file and returns IGNORE everywhere.
        eval_size: size that whole images are resized to; None keeps their own. Labels of whole
            images always keep theirs.
    """

    def __init__(
        self,
        scenes: Scenes,
        *,
        view: View | None = None,
        colour: Distortion | None = None,
        seed: int = 0,
        purpose: str = "",
        use_labels: bool = True,
        eval_size: Size | None = None,
    ) -> None:
        self.scenes = scenes
        self.view = view
        self.colour = colour
        self.seed = seed
        self.purpose = purpose
        self.use_labels = use_labels and scenes.has_labels
        self.eval_size = eval_size

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, ticket: Ticket) -> Sample:
        pass_number, index = ticket
        image = self.scenes.image(index)
        label = self._label(index, image)
        if self.view is None:
            full = (image.shape[0], image.shape[1])
            geometry = Geometry.whole(full, self.eval_size)
        else:
            rng = generator(self.seed, pass_number, index, f"{self.purpose}/geometry")
            geometry = self.view.draw(label, rng)
            label = crop_label(label, geometry)
        image = crop_image(image, geometry)
        if self.colour is not None:
            image = self.colour(
                image, seed32(self.seed, pass_number, index, f"{self.purpose}/colour")
            )
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "label": torch.from_numpy(np.ascontiguousarray(label)),
            "index": index,
            "geometry": torch.tensor(geometry),
        }

    def _label(self, index: int, image: Image) -> Image:
        if not self.use_labels:
            return np.full(image.shape[:2], IGNORE, np.uint8)
        return label_of(self.scenes, index, image)


def label_of(scenes: Scenes, index: int, image: Image) -> Image:
    """The label (H, W) of a scene whose image has been read.

    Raises:
        DataError: it cannot be read, or has another size than the image.
    """
    label = scenes.label(index)
    if label.shape != image.shape[:2]:
        raise DataError(
            f"{scenes.name(index)}: the image has {_by(image)} pixels, "
            f"its label {_by(label)}; they must be equal"
        )
    return label


def collate(samples: list[Sample]) -> Batch:
    """Stack samples to a batch.

    Raises:
        DataError: images of one evaluation batch differ in size.
    """
    shapes = {(tuple(s["image"].shape[1:]), tuple(s["label"].shape)) for s in samples}
    if len(shapes) > 1:
        sizes = sorted({f"{h}x{w}" for (h, w), _ in shapes})
        raise DataError(
            f"images of one evaluation batch differ in size ({', '.join(sizes)}); set "
            "data.eval_batch_size=1, or data.eval_size=[height,width] if the labels are equal"
        )
    batch: Batch = default_collate(samples)
    return batch


ScenesFactory = Callable[[], Scenes]
"""Opens the files only when called, so that a set nobody needs may be missing."""


def _by(image: Image) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
