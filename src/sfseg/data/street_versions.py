"""Trees of street scenes that look like the version a layout reads, and are another."""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from sfseg.data.label_ids import VISTAS_IDS
from sfseg.errors import DataError

log = logging.getLogger(__name__)

RAND_CITYSCAPES = re.compile(r"RGB/000\d{4}\.png")
FRAMES = 9400


def vistas_labels(base: Path, split: str) -> str:
    """The folder of Mapillary Vistas 1.2's labels, relative to the root.

    Args:
        base: the root.
        split: training or validation.

    Raises:
        DataError: there are labels of version 2.0 alone, in which the same number means another
            class.
    """
    labels = f"{split}/v1.2/labels"
    if (base / labels).is_dir():
        return labels
    way_out = (
        "the labels of version 2.0 have other numbers for the classes; take those of version 1.2, "
        f"which the same download holds, to {base / labels}"
    )
    labels = f"{split}/labels"
    if (base / split / "v2.0").is_dir() and not (base / labels).is_dir():
        raise DataError(f"{base / split} has v2.0 and no v1.2: {way_out}", path=base / split)
    config = base / "config.json"
    if not config.is_file() and not (base / "config_v1.2.json").is_file():
        config = base / "config_v2.0.json"
    if config.is_file() and (version := _version(config)):
        raise DataError(f"{config} is of {version}: {way_out}", path=config)
    return labels


def require_rand_cityscapes(names: Iterable[str]) -> list[str]:
    """The names of SYNTHIA-RAND-CITYSCAPES' frames, ``RGB/0000000.png`` to ``RGB/0009399.png``.

    Raises:
        DataError: another name, as frames of SYNTHIA's video sequences have, whose numbers mean
            other classes.
    """
    found = list(names)
    for name in found:
        if not RAND_CITYSCAPES.fullmatch(name) or number(name) >= FRAMES:
            raise DataError(
                f"{name} is no frame of SYNTHIA-RAND-CITYSCAPES, which are RGB/0000000.png to "
                f"RGB/{FRAMES - 1:07d}.png: in SYNTHIA's video sequences the same numbers mean "
                "other classes (12 is a lane marking); keep those elsewhere"
            )
    return found


def number(name: str) -> int:
    """The number that a frame's file is called by."""
    return int(Path(name).stem)


def _version(config: Path) -> str:
    """What a configuration of Vistas says, where that is not version 1.2."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        version, count = str(content.get("version", "")), len(content["labels"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read, labels are taken for version 1.2: %s", config, error)
        return ""
    if count == len(VISTAS_IDS) and not version.startswith("2"):
        return ""
    return f"{count} classes{f', version {version}' if version else ''}"
