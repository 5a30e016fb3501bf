"""Networks of other libraries as checkpoints that all commands read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfseg import __version__
from sfseg.config.composition import build, plain
from sfseg.labels import CAMVID, CITYSCAPES, SYNTHIA, LabelSpace
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.published import TASKS
from sfseg.runs.checkpoints import PREFIX, composed, empty_backbone
from sfseg.storage.atomic import output_to, write_whole
from sfseg.storage.manifest import KEY

DATA = (
    (CITYSCAPES, TASKS[CITYSCAPES.num_classes]),
    (SYNTHIA, TASKS[SYNTHIA.num_classes]),
    (CAMVID, ["data=camvid_day_to_dusk"]),
)
"""Where scenes with the classes of a built-in label space come from, as far as evaluation goes."""
OWN = ["data=folder"]


def write_converted(
    output: Path,
    settings: Sequence[str],
    labels: LabelSpace,
    fill: Callable[[Segmenter], object],
    *,
    source: str,
) -> None:
    """Write a network as a run would have done.

    Args:
        output: the file.
        settings: what a command line says of the network and how it is shown images.
        labels: its classes.
        fill: gives the network its weights; nothing is written where that fails.
        source: kept in the file, for people.

    Raises:
        ConfigError: the settings build no network.
        OutputError: the disk takes nothing.
    """
    data = next((words for space, words in DATA if space == labels), OWN)
    config = composed([*data, "method=source_only", "trainer.precision=32-true", *settings])
    network: Segmenter = build(empty_backbone(config), num_classes=labels.num_classes)
    fill(network)
    tensors: dict[str, Tensor] = {
        f"{PREFIX}{key}": tensor.contiguous() for key, tensor in network.state_dict().items()
    }
    record: dict[str, Any] = {
        "version": __version__,
        "config": plain(config, resolve=False),
        "labels": labels.to_dict(),
        "converted_from": source,
    }
    content = {"state_dict": tensors, KEY: record}
    with output_to(output):
        write_whole(output, lambda file: torch.save(content, file))
