"""Models that a personalisation keeps: folders that appear whole, and say what they are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sfseg.errors import OutputError
from sfseg.generation.dreambooth import DreamBooth
from sfseg.generation.lora import merged, write_adapters
from sfseg.storage.atomic import write_whole_folder

RECORD = "personalised.json"


def step_folder(out: Path, step: int) -> Path:
    """Where the model after a number of steps is kept."""
    return out / f"step_{step:06d}"


def keep(training: DreamBooth, folder: Path, record: Mapping[str, Any]) -> None:
    """Write the model as it is: a complete pipeline, its adapters too, and a record in JSON.

    A folder that is there stays: a run that goes on from an earlier step comes to the same model.

    Raises:
        OutputError: the disk takes nothing; there is no folder then.
    """
    if folder.exists():
        return

    def write(partial: Path) -> None:
        training.set_training(False)
        if training.settings.lora is None:
            training.pipeline.save_pretrained(partial)
        else:
            write_adapters(training.pipeline, training.trained, partial)
            merged(training.pipeline, training.trained).save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")

    write_folder(folder, write)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place, flush it to the disk, then give it its name.

    Raises:
        OutputError: the disk takes nothing.
    """
    try:
        write_whole_folder(folder, write)
    # safetensors reports a full disk as an error of its own.
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{folder} cannot be written: {error}; make room, then repeat the command, which goes "
            "on where it stopped"
        ) from error
