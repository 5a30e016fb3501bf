"""Models that other projects have published: which network a file holds.

Nothing but the names and shapes of its tensors is looked at.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError
from sfseg.networks.backbones.mit import VARIANTS
from sfseg.networks.weights.checkpoint import load_tensors
from sfseg.networks.weights.key_maps import Tensors, segmenter_names, unwrapped
from sfseg.networks.weights.weight_files import patterns

_SHOWN = 200  # characters of names in a message

SWINS: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "swin_t",
    (96, (2, 2, 18, 2)): "swin_s",
    (128, (2, 2, 18, 2)): "swin_b",
}
"""Width of the first stage and blocks of each stage."""

RESNETS: dict[tuple[int, tuple[int, ...]], str] = {(32, (3, 4, 23, 3)): "resnet101c_deeplabv2"}
"""Width of the first of three convolutions of the stem, and blocks of each stage."""

HEADS = {
    "daformer": r"^head\.branches\.",
    "upernet": r"^head\.laterals\.",
    "segformer_mmseg": r"^head\.embeddings\.0\.0\.",
    "segformer": r"^head\.fuse\.",
    "deeplabv2": r"^head\.classifiers\.3\.",
    "deeplabv2_two_branch": r"^head\.classifiers\.1\.",
}
"""What gives a head away in one of its names; the first that is found decides."""

TASKS = {
    19: ["data=gta5_to_cityscapes"],
    16: ["data=synthia_to_cityscapes", "data.protocol=16-way"],
}
"""Where so many classes come from, as far as evaluation on the target is concerned."""


@dataclass(frozen=True)
class Published:
    """What is known of a published network; None for what is not.

    backbone: a group of ``conf/backbone``.
    head: a group of ``conf/backbone/head``.
    head_channels: width of the head's last layer but one; None for DeepLab-v2's, which has one.
    num_classes: outputs.
    is_prompted: has the prompt adapter of Uni-UVPT.
    leave_one_out: heads beside the global one, of Generalize then Adapt.
    attends: has scale attention between two resolutions, of HRDA.
    """

    backbone: str | None
    head: str | None
    head_channels: int | None
    num_classes: int | None
    is_prompted: bool
    leave_one_out: int
    attends: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a backbone with a head, and nothing beside."""
        return not (self.is_prompted or self.leave_one_out or self.attends)

    def network(self) -> list[str]:
        """The choices of a command line that builds backbone and head."""
        width = self.head_channels
        return [
            f"backbone={self.backbone}",
            f"backbone/head={self.head}",
            *([] if width is None else [f"backbone.head.channels={width}"]),
        ]

    def overrides(self) -> list[str]:
        """The choices of a command line that builds it."""
        method = ["method=source_only"]
        if self.is_prompted:
            method = ["method=uniuvpt", "method.variant=release"]
        elif self.leave_one_out:
            method = ["method=source_gta", f"method.adapter.heads={self.leave_one_out}"]
        elif self.attends:
            method += ["+method/adapter=two_resolutions", "data.resolution=full"]
        return [
            *self.network(),
            *TASKS.get(self.num_classes or 0, []),
            *method,
        ]


def recognise(tensors: Tensors) -> Published:
    """What network named tensors belong to, under the names of their project or of ours."""
    ours = segmenter_names(unwrapped(tensors))
    backbone = {
        re.sub(r"^backbone\.(backbone\.)?", "", key): tensor
        for key, tensor in ours.items()
        if key.startswith("backbone.")
    }
    outputs, channels = _sides(ours, "head.classifier.weight")
    if outputs is None:
        outputs, _ = _sides(ours, "head.classifiers.0.weight")
    return Published(
        backbone=_swin(backbone) or _mit(backbone) or _resnet(backbone),
        head=next((head for head, sign in HEADS.items() if _any(sign, ours)), None),
        head_channels=channels,
        num_classes=outputs,
        is_prompted=_any(r"^backbone\.adapter\.", ours),
        attends=_any(r"^attention_head\.", ours),
        leave_one_out=len(set(_numbers(r"leave_one_out\.(\d+)\.", ours))),
    )


def identify(path: Path) -> Published:
    """What a published file holds, all that it takes to build its network and evaluate it.

    Raises:
        ConfigError: the file cannot be read, or its network is none of ours, or its number of
            classes none of :data:`TASKS`; says how far it was understood.
    """
    return understood(path, "ckpt_path", TASKS)


def understood(path: Path, argument: str, classes: Collection[int] | None = None) -> Published:
    """What a published file holds, all that it takes to build its network.

    Args:
        path: of the file.
        argument: what gave it, for messages.
        classes: numbers of classes that are known; None: all are.

    Raises:
        ConfigError: the file cannot be read, or its network is none of ours; says how far it was
            understood.
    """
    tensors = load_tensors(path)
    found = recognise(tensors)
    is_number = found.num_classes is not None and classes is None
    if not (found.backbone and found.head and (is_number or found.num_classes in (classes or ()))):
        raise ConfigError(_not_understood(path, argument, found, tensors, classes))
    return found


def _swin(backbone: Tensors) -> str | None:
    width, _ = _sides(backbone, "trunk.patch_embed.proj.weight")
    depths = _depths(r"trunk\.layers\.(\d+)\.blocks\.(\d+)\.", backbone)
    return None if width is None else SWINS.get((width, depths))


def _mit(backbone: Tensors) -> str | None:
    width, _ = _sides(backbone, "patch_embed1.proj.weight")
    depths = _depths(r"block(\d+)\.(\d+)\.", backbone)
    names = {size: name for name, size in VARIANTS.items()}
    return None if width is None else names.get((width, depths))


def _resnet(backbone: Tensors) -> str | None:
    width, _ = _sides(backbone, "trunk.conv1.0.weight")
    depths = _depths(r"trunk\.layer(\d+)\.(\d+)\.", backbone)
    return None if width is None else RESNETS.get((width, depths))


def _sides(tensors: Tensors, name: str) -> tuple[int, int] | tuple[None, None]:
    """Outputs and inputs of a convolution, if it is there."""
    shape = tensors[name].shape if name in tensors else ()
    return (shape[0], shape[1]) if len(shape) == 4 else (None, None)


def _depths(block: str, names: Iterable[str]) -> tuple[int, ...]:
    """Blocks of each stage, of names that start with both numbers."""
    count = Counter(stage for stage, _ in set(_numbers(block, names)))
    return tuple(count[stage] for stage in sorted(count, key=int))


def _numbers(pattern: str, names: Iterable[str]) -> list[tuple[str, ...]]:
    return [match.groups() for name in names if (match := re.match(pattern, name))]


def _any(pattern: str, names: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for name in names)


def _not_understood(
    path: Path,
    argument: str,
    found: Published,
    tensors: Tensors,
    classes: Collection[int] | None,
) -> str:
    known: list[tuple[str, Any, Collection[Any]]] = [
        ("backbone", found.backbone, [*SWINS.values(), *VARIANTS, *RESNETS.values()]),
        ("head", found.head, HEADS),
    ]
    if classes is not None:
        number = found.num_classes if found.num_classes in classes else None
        known.append(("classes", number, classes))
    parts = [
        f"{part} {name}" if name else f"{part} none of {', '.join(map(str, options))}"
        for part, name, options in known
    ]
    others = [key for key in tensors if "backbone." not in key] or list(tensors)
    return (
        f"{argument}={path} was not written by sfseg-train, and as a published model it is not "
        f"understood: {', '.join(parts)}; it has {len(tensors)} tensors, among them "
        f"{patterns(others)[:_SHOWN] or 'none'}; give a run's checkpoints/last.ckpt, or a "
        "backbone's weights with backbone.weights"
    )
