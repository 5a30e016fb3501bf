"""Label spaces: class names, colours and the subsets that metrics average over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfseg.types import IGNORE

Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a task, in the order of their ids.

    Args:
        name: short name for tables.
        classes: one name per class; the id of a class is its position.
        palette: one RGB colour per class, 0..255.
        subsets: metric name -> class ids it averages over; ``mIoU`` over all is always there.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) < IGNORE - 1:
            raise ValueError(
                f"classes must be 2 to 253 names, got {len(self.classes)}; what is none of the "
                "others is a class too, such as background"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct, got {list(self.classes)}")
        self._check_palette()
        everything = tuple(range(len(self.classes)))
        reserved = {"pixel_accuracy", "mean_accuracy"}
        if both := {"mIoU", *reserved, *self.subsets} & set(self.classes):
            raise ValueError(
                f"classes must not be called as means and subsets are, got {sorted(both)}; tables "
                "could not tell them apart"
            )
        if self.subsets.get("mIoU", everything) != everything or reserved & set(self.subsets):
            raise ValueError(
                f"a subset must not be called mIoU, {' or '.join(sorted(reserved))}, which have "
                f"a meaning of their own; got {list(self.subsets)}"
            )
        for name, members in self.subsets.items():
            if not members or not all(0 <= k < len(self.classes) for k in members):
                raise ValueError(
                    f"subset {name!r} must list ids from 0 to {len(self.classes) - 1}, "
                    f"got {list(members)}"
                )
        object.__setattr__(self, "subsets", {"mIoU": everything, **self.subsets})

    def _check_palette(self) -> None:
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"palette must hold one colour for each of the {len(self.classes)} classes, "
                f"got {len(self.palette)}"
            )
        if not all(0 <= channel <= 255 for colour in self.palette for channel in colour):
            raise ValueError(f"palette must hold RGB values from 0 to 255, got {self.palette}")
        if len(set(self.palette)) != len(self.palette):
            raise ValueError("palette must hold distinct colours, or masks could not be read back")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def only(self, name: str, ids: Sequence[int]) -> "LabelSpace":
        """Some of the classes, renumbered in this order; subsets keep those that remain."""
        kept = {k: position for position, k in enumerate(ids)}
        subsets = {
            subset: tuple(kept[k] for k in members)
            for subset, members in self.subsets.items()
            if subset != "mIoU" and set(members) <= set(kept)
        }
        return LabelSpace(
            name=name,
            classes=tuple(self.classes[k] for k in ids),
            palette=tuple(self.palette[k] for k in ids),
            subsets=subsets,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint; :meth:`from_dict` is the way back."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "palette": [list(colour) for colour in self.palette],
            "subsets": {name: list(ids) for name, ids in self.subsets.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelSpace":
        names = [values["name"], *values["classes"]]
        if wrong := [name for name in names if not isinstance(name, str | int | float)]:
            raise ValueError(f"classes must be names, got a {type(wrong[0]).__name__} among them")
        return cls(
            name=str(values["name"]),
            classes=tuple(str(name) for name in values["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in values["palette"]),
            subsets={
                str(name): tuple(int(k) for k in ids)
                for name, ids in values.get("subsets", {}).items()
            },
        )


CITYSCAPES = LabelSpace(
    name="cityscapes",
    classes=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
        "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
        "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
        (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    # The SYNTHIA subsets: without terrain, truck, train; then without wall, fence, pole.
    subsets={
        "mIoU16": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
        "mIoU13": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    },
)  # fmt: skip

CAMVID = LabelSpace(
    name="camvid",
    classes=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
        "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
        (0, 128, 192),
    ),
)  # fmt: skip

SYNTHIA = CITYSCAPES.only("synthia", CITYSCAPES.subsets["mIoU16"])
"""The 16 classes that SYNTHIA shares with Cityscapes, for models of 16 outputs."""

CROSS_CITY = CITYSCAPES.only("cross_city", CITYSCAPES.subsets["mIoU13"])
"""The 13 classes of NTHU's Cross-City sets, which have their numbers in Cityscapes' order."""

BUILT_IN = {space.name: space for space in (CITYSCAPES, SYNTHIA, CROSS_CITY, CAMVID)}


def distinct_colour(index: int) -> Colour:
    """The PASCAL VOC colour of a class id: bits spread over the high bits of R, G and B."""
    channels = [0, 0, 0]
    value = index + 1
    for bit in range(7, -1, -1):
        for c in range(3):
            channels[c] |= ((value >> c) & 1) << bit
        value >>= 3
    return channels[0], channels[1], channels[2]
