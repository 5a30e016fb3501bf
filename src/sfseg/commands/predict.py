"""``sfseg-predict``: pictures in, label maps and overlays out."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import as_typed, build, command, require_flags
from sfseg.errors import ConfigError, DataError
from sfseg.prediction.predictor import Predictor

if TYPE_CHECKING:
    from sfseg.data.inputs import Input
    from sfseg.labels import LabelSpace
    from sfseg.prediction.batches import Read
    from sfseg.prediction.model import Model
    from sfseg.prediction.video import Look
    from sfseg.runs.checkpoints import Restored

__all__ = ["Predictor", "main", "model_of", "predict", "sources", "stored_ids"]

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of ``sfseg-predict``."""
    command(predict, "predict")


def predict(cfg: DictConfig) -> None:
    """Predict every picture that is meant; those that cannot be are listed at the end.

    Raises:
        ConfigError: no output asked for, a setting that cannot be, or the output folder has files
            already.
        DataError: no images, or some could not be predicted.
    """
    import torch
    from rich.progress import track

    from sfseg.data.odd_pictures import remarks
    from sfseg.prediction.batches import Batches
    from sfseg.prediction.video import Look
    from sfseg.report.predictions import KINDS, Predictions
    from sfseg.runs.checkpoints import restore
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    require_flags(cfg, "overwrite", "colours", "overlays", "confidence")
    output = Path(as_typed(cfg, "output"))
    wanted = [kind for kind in KINDS if cfg[kind]]
    if not wanted:
        raise ConfigError(f"nothing to write: set one of {', '.join(KINDS)} to true")
    if output.is_dir() and any(output.iterdir()) and not cfg.overwrite:
        raise ConfigError(f"output={output} is not empty; choose another or set overwrite=true")
    inputs, videos = meant(sources(cfg), [output / kind for kind in KINDS])
    seconds = seconds_of(cfg)
    look = Look(layout=cfg.video, opacity=cfg.opacity, smoothing=cfg.smoothing)
    restored = restore(cfg.ckpt_path)
    ids = stored_ids(cfg.labels, restored.labels)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    model = model_of(cfg, restored, value_range=cfg.value_range, max_pixels=cfg.max_pixels)
    written = Predictions(output, wanted, restored.labels, ids=ids, opacity=cfg.opacity)
    batches = Batches(reader(model), model.predictor, written, batch_size=cfg.batch_size)
    written.write_classes()
    if inputs:
        shown = f"predicting {len(inputs)} images"
        for _ in track(batches.run(inputs), total=len(inputs), description=shown):
            pass
        for _, text in remarks(batches.facts):
            log.warning("images: %s", text.replace("data.value_range", "value_range"))
        log.info("%d images in %s: %s", batches.count(inputs), output, ", ".join(wanted))
    failed = [
        *batches.failed(inputs),
        *failed_videos(videos, output / "videos", model, look, seconds),
    ]
    if failed:
        listed = "\n  ".join(failed)
        what = "images" if not videos else "images and videos"
        count = len(inputs) + len(videos)
        raise DataError(f"{len(failed)} of {count} {what} were skipped:\n  {listed}")


def sources(cfg: DictConfig, setting: str = "images") -> list[str]:
    """What a setting names: one or several folders, files or patterns."""
    several = OmegaConf.is_list(cfg[setting])
    named = map(str, cfg[setting]) if several else [as_typed(cfg, setting)]
    return [os.path.expanduser(name) for name in named]  # noqa: PTH111 - patterns stay as they are


def seconds_of(cfg: DictConfig) -> float | None:
    """How long a camera is recorded; None: until it is stopped.

    Raises:
        ConfigError: no time.
    """
    seconds = cfg.seconds
    if seconds is None:
        return None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0:
        return float(seconds)
    raise ConfigError(f"seconds must be positive, or null until Ctrl-C, got {seconds}")


def meant(names: list[str], own: list[Path]) -> "tuple[list[Input], list[Path | str]]":
    """Pictures that names stand for, and videos: files, and cameras by their names.

    Raises:
        ConfigError: there are videos and no PyAV.
        DataError: a name stands for nothing.
    """
    from sfseg.data.inputs import find_inputs
    from sfseg.prediction.camera import is_camera
    from sfseg.prediction.frames import find_videos, is_video, pyav

    cameras = [name for name in dict.fromkeys(names) if is_camera(name)]
    moving = [name for name in names if is_video(name)]
    still = [name for name in names if name not in (*moving, *cameras)]
    if moving or cameras:
        pyav()
    return find_inputs(still, own) if still else [], [*find_videos(moving), *cameras]


def failed_videos(
    videos: "list[Path | str]",
    folder: Path,
    model: "Model",
    look: "Look",
    seconds: float | None,
) -> "Iterator[str]":
    """Predict videos; why each that could not be could not."""
    import torch
    from rich.progress import track

    from sfseg.prediction.camera import Camera
    from sfseg.prediction.frames import Frames
    from sfseg.prediction.video import predict_video
    from sfseg.runs.memory import is_out_of_memory

    for path in videos:

        def follow(frames: Any, count: int | None, name: str = Path(path).name) -> Any:
            return track(frames, total=count, description=f"predicting {name}")

        try:
            film = Frames(path) if isinstance(path, Path) else Camera(path, seconds)
            written = folder / film.path.stem
            predict_video(film, written, model.predictor, model.labels, look, follow)
        except DataError as error:
            yield str(error)
        # As MemoryError, as errors of torch and as those of cv2.
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            yield f"{path} is {model.predictor.too_large}"
        else:
            log.info("%s is in %s, and the shares of its classes beside it", path, folder)


def stored_ids(choice: object, labels: "LabelSpace") -> list[int] | None:
    """The id that each class is written as; None for its position.

    Raises:
        ConfigError: no such choice, or the classes have no other ids.
    """
    from sfseg.data.label_ids import LABEL_IDS

    if choice in (True, False, "train_ids"):
        return None
    if choice != "ids":
        raise ConfigError(f"labels must be train_ids, ids or false, got {choice}")
    strange = [name for name in labels.classes if name not in LABEL_IDS]
    if strange:
        raise ConfigError(
            "labels=ids needs classes of Cityscapes, whose labelIds are written; the checkpoint's "
            f"{labels.name} has {', '.join(strange[:5])}, which have none: set labels=train_ids"
        )
    return [LABEL_IDS[name][0] for name in labels.classes]


def reader(model: "Model") -> "Callable[[Input], Read]":
    """What reads pictures as the run's evaluation does."""
    from sfseg.data.headers import read_header
    from sfseg.data.images import in_bytes, read_bytes, stored_values
    from sfseg.data.odd_pictures import facts_of
    from sfseg.prediction.batches import Read

    def read(one: "Input") -> Read:
        data = read_bytes(one.path)
        stored = stored_values(data, one.path, model.max_pixels)
        image = in_bytes(stored, model.value_range)
        header = read_header(one.path, data, model.max_pixels)
        return Read(image, facts_of(header, image, model.value_range, lambda: stored))

    return read


def model_of(cfg: DictConfig, restored: "Restored", **reading: Any) -> "Model":
    """The run's network on its device, as the trainer would evaluate it.

    Args:
        cfg: has ``input_size``, ``tile_pixels``, ``device``, ``precision`` and ``evaluation``.
        restored: the run's network.
        reading: how files are read, see :class:`sfseg.prediction.model.Model`.

    Raises:
        ConfigError: a setting that cannot be.
    """
    from sfseg.prediction.model import Model

    return Model(
        restored,
        input_size=plain_list(cfg.input_size),
        tile_pixels=cfg.tile_pixels,
        device=cfg.device,
        precision=cfg.precision,
        evaluation=build(cfg.evaluation),
        **{name: plain_list(value) for name, value in reading.items()},
    )


def plain_list(value: Any) -> Any:
    """A setting that may be a list, as one of Python."""
    return OmegaConf.to_object(value) if OmegaConf.is_list(value) else value


if __name__ == "__main__":
    main()
