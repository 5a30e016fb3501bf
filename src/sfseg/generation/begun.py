"""What a personalisation that has begun leaves behind, and what may go on from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfseg.errors import ConfigError
from sfseg.generation.crops import Crops
from sfseg.generation.model_card import personalised


def kept_models(out: Path) -> dict[int, Path]:
    """Folders of the models that a run has kept, by their steps."""
    folders = sorted(out.glob("step_[0-9]*"))
    return {int(folder.name.removeprefix("step_")): folder for folder in folders}


def require_same_pictures(out: Path, places: Crops, others: Crops | None) -> None:
    """Refuse to go on with other pictures than those that kept models have learnt.

    Args:
        out: the run's folder.
        places: pictures to learn.
        others: pictures of prior preservation, where a setting names them.

    Raises:
        ConfigError: a picture has another content, or there is another number of them.
    """
    now = {"images": places, "prior_images": others}
    for folder in kept_models(out).values():
        record = personalised(str(folder))
        for name, crops in now.items():
            if digests(record.get(name)) != digests(None if crops is None else entries(crops)):
                raise other_pictures(out)


def require_ahead(out: Path, steps: int, done: int) -> None:
    """Refuse an end that a run is past: its earlier weights are gone.

    Args:
        out: the run's folder.
        steps: of the end.
        done: by the run.

    Raises:
        ConfigError: says which models there are.
    """
    if steps < done:
        names = ", ".join(folder.name for folder in kept_models(out).values())
        raise ConfigError(
            f"steps={steps}, but the run in {out} has done {done}; models that are kept: "
            f"{names or 'none'}. Take one of these, set steps={done} or more, or choose another "
            "folder for out"
        )


def entries(crops: Crops) -> list[dict[str, str]]:
    """Files and their SHA-256, as a kept model's record has them."""
    files = zip(crops.paths, crops.digests, strict=True)
    return [{"file": str(path), "sha256": digest} for path, digest in files]


def digests(pictures: Sequence[dict[str, Any]] | None) -> list[Any] | None:
    """The contents of a record's pictures; None where it has none."""
    return None if pictures is None else [picture["sha256"] for picture in pictures]


def other_pictures(out: Path) -> ConfigError:
    """The error of a run that goes on with other pictures."""
    return ConfigError(
        f"the run in {out} has begun with other pictures than these; restore those, or choose "
        "another folder for out"
    )
