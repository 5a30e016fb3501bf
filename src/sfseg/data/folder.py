"""The one dataset: scenes (files or drawn) seen through a view."""

from collections.abc import Callable, Collection
from itertools import chain
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sfseg.data.colour import Distortion
from sfseg.data.geometry import (
    PAD_COLOUR,
    EvalView,
    Geometry,
    Image,
    Size,
    View,
    crop_image,
    crop_label,
    pad_label,
    resize_label,
    size_by,
)
from sfseg.data.left_out import OnError
from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.randomness import generator, seed32
from sfseg.types import IGNORE, Batch, size_text

WHOLE = EvalView()
"""Whole images and labels at their own size."""


class Wanted(NamedTuple):
    """What a crop should show.

    class_id: of the class.
    pixels: a crop with more of it is taken at once.
    redraws: how often another one is drawn.
    """

    class_id: int
    pixels: float
    redraws: int


class Ticket(NamedTuple):
    """Which sample, and which of its random views.

    pass_number: number of the pass over the set, or another one that no two views share.
    scene: its position in the set.
    wanted: what its crop should show; None takes the first.
    """

    pass_number: int
    scene: int
    wanted: Wanted | None = None


Restyle = Callable[[Image, int, int], Image]
"""A crop (H, W, 3), its pass and its index to the crop in another style."""


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
    """One element of a :class:`sfseg.types.Batch`, without the batch axis; nothing pads its image.

    left_out: index and reason of scenes before this one that turned out unusable, if any did.
    """

    image: Tensor
    label: Tensor
    index: int
    geometry: Tensor
    left_out: NotRequired[list[tuple[int, str]]]


class Picture(NamedTuple):
    """A scene as it is read: decoded, perhaps resized.

    image: (H, W, 3) RGB.
    label: (H, W), or None where it is not read.
    full: size of the image's file.
    """

    image: Image
    label: Image | None
    full: Size


Read = Callable[[int], Picture]
"""Reads a scene by its position."""


class FolderDataset(Dataset[Sample]):
    """Random views for training, whole images for evaluation.

    Args:
        scenes: where images and labels come from.
        view: how training crops are drawn; an :class:`EvalView` shows whole images.
        colour: distortion of training images.
        seed: run seed; with pass and index it determines every random choice.
        purpose: name of the domain, so that domains draw apart.
        use_labels: False never opens a label file and returns IGNORE everywhere.
        read: reads a scene; None decodes the files each time.
        on_error: whether a scene that cannot be used raises its :class:`DataError`, or is replaced
            by the next one that can, in the same pass. All other samples stay as they are.
        left_out: scenes that are known to be unusable.
        restyle: changes the style of a training crop, before its colours are distorted.
    """

    def __init__(
        self,
        scenes: Scenes,
        *,
        view: View | EvalView = WHOLE,
        colour: Distortion | None = None,
        seed: int = 0,
        purpose: str = "",
        use_labels: bool = True,
        read: Read | None = None,
        on_error: OnError = "raise",
        left_out: Collection[int] = (),
        restyle: Restyle | None = None,
    ) -> None:
        self.scenes = scenes
        self.view = view
        self.colour = colour
        self.seed = seed
        self.purpose = purpose
        self.use_labels = use_labels and scenes.has_labels
        self.read: Read = read or self._decode
        self.on_error = on_error
        self.left_out = frozenset(left_out)
        self.restyle = restyle

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, ticket: Ticket | tuple[int, int]) -> Sample:
        pass_number, first, wanted = ticket = Ticket(*ticket)
        if self.on_error != "skip":
            return self._sample(ticket)
        found: list[tuple[int, str]] = []
        # Nothing is remembered here: which samples there are must not depend on what a loader
        # process has seen before.
        for index in chain(range(first, len(self)), range(first)):
            if index in self.left_out:
                continue
            try:
                sample = self._sample(Ticket(pass_number, index, wanted))
            except DataError as error:
                found.append((index, str(error)))
                continue
            return {**sample, "left_out": found} if found else sample
        raise DataError(f"none of {len(self)} scenes can be used; {found[-1][1] if found else ''}")

    def _sample(self, ticket: Ticket) -> Sample:
        pass_number, index, _ = ticket
        picture = self.read(index)
        geometry = self._geometry(picture, ticket)
        image = crop_image(picture.image, geometry)
        if self.restyle is not None:
            image = self.restyle(image, pass_number, index)
        if self.colour is not None:
            image = self.colour(
                image, seed32(self.seed, pass_number, index, f"{self.purpose}/colour")
            )
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "label": torch.from_numpy(self._label(picture, geometry)),
            "index": index,
            "geometry": torch.tensor(geometry),
        }

    def _decode(self, index: int) -> Picture:
        image = self.scenes.image(index)
        label = label_of(self.scenes, index, image) if self.use_labels else None
        return Picture(image, label, (image.shape[0], image.shape[1]))

    def _geometry(self, picture: Picture, ticket: Ticket) -> Geometry:
        if isinstance(self.view, EvalView):
            return Geometry.whole(picture.full, size_by(self.view.size, picture.full))
        pass_number, index, wanted = ticket
        rng = generator(self.seed, pass_number, index, f"{self.purpose}/geometry")
        geometry = self.view.draw(picture.label, rng, picture.full)
        if wanted is None or picture.label is None:
            return geometry
        for _ in range(wanted.redraws):
            shown = crop_label(picture.label, geometry) == wanted.class_id
            if np.count_nonzero(shown) > wanted.pixels:
                break
            geometry = self.view.draw(picture.label, rng, picture.full)
        return geometry

    def _label(self, picture: Picture, geometry: Geometry) -> Image:
        """The label as torch may own it: in evaluation of the size it is scored at."""
        if isinstance(self.view, EvalView):
            size = size_by(self.view.label_size, picture.full)
            if picture.label is None:
                return np.full(size, IGNORE, np.uint8)
            # A decoder's array, or one mapped from a file, may be read-only.
            return np.require(resize_label(picture.label, size), requirements=["C", "W"])
        if picture.label is None:
            return np.full((geometry.height, geometry.width), IGNORE, np.uint8)
        return crop_label(picture.label, geometry)


def label_of(scenes: Scenes, index: int, image: Image) -> Image:
    """The label (H, W) of a scene whose image has been read.

    Raises:
        DataError: it cannot be read, or has another size than the image.
    """
    label = scenes.label(index)
    require_equal_sizes(scenes.name(index), (image.shape[0], image.shape[1]), label)
    return label


def require_equal_sizes(name: str, full: Size, label: Image) -> None:
    """Raise unless a label has its image's size.

    Raises:
        DataError: names both sizes.
    """
    if label.shape != full:
        is_on_its_side = label.shape == full[::-1]
        advice = (
            ". Images are turned as their orientation tag says; turn the label likewise, or remove "
            "the tag if the image lies as stored"
        )
        raise DataError(
            f"{name}: the image has {size_text(full)} pixels (width x height), its label "
            f"{size_text(label.shape)}; they must be equal" + (advice if is_on_its_side else ""),
            kind="sizes differ",
        )


def collate(samples: list[Sample]) -> Batch:
    """Stack samples to a batch; ``left_out`` goes beside the tensors, where there is any.

    Raises:
        DataError: images of one evaluation batch differ in size.
    """
    shapes = {(tuple(s["image"].shape[1:]), tuple(s["label"].shape)) for s in samples}
    if len(shapes) > 1:
        sizes = sorted({size_text(size) for size, _ in shapes})
        raise DataError(
            f"images of one evaluation batch differ in size ({', '.join(sizes)}, width x height); "
            "set data.eval_batch_size=1, or data.eval_size and data.eval_label_size=[height,width]"
        )
    found = [entry for sample in samples for entry in sample.get("left_out", [])]
    kept: list[dict[str, Any]] = [
        {key: value for key, value in sample.items() if key != "left_out"} for sample in samples
    ]
    batch: Batch = default_collate(kept)
    if found:
        batch["left_out"] = found
    return batch


def collate_crops(samples: list[Sample]) -> Batch:
    """:func:`collate` of training samples, the smaller of which are padded.

    Below and to the right, to the largest height and the largest width among them: images with
    :data:`sfseg.data.geometry.PAD_COLOUR`, labels with IGNORE. ``geometry`` says what is shown.
    """
    height, width = (max(sample["label"].shape[axis] for sample in samples) for axis in (0, 1))
    return collate([_padded(sample, (height, width)) for sample in samples])


def _padded(sample: Sample, size: Size) -> Sample:
    shown = (sample["label"].shape[0], sample["label"].shape[1])
    if shown == size:
        return sample
    image = torch.tensor(PAD_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, *size)
    image[:, : shown[0], : shown[1]] = sample["image"]
    label = torch.from_numpy(pad_label(sample["label"].numpy(), size))
    return {**sample, "image": image, "label": label}


ScenesFactory = Callable[[], Scenes]
"""Opens the files only when called, so that a set nobody needs may be missing."""
