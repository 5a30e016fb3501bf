"""``sfseg-export int8=true``: what a file is calibrated on, and what that costs in IoU."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from sfseg.commands.export import evenly, read_pictures
from sfseg.config.composition import build
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from sfseg.data.folder import Scenes
    from sfseg.data.geometry import EvalView, Image
    from sfseg.export.deployed import Deployed
    from sfseg.export.onnx_file import OnnxFile
    from sfseg.export.scoring import Change
    from sfseg.export.torch_file import TorchFile
    from sfseg.runs.checkpoints import Restored

log = logging.getLogger(__name__)

CALIBRATED_ON = 32
"""Images at most."""
SCORED_ON = 100
"""Images at most."""


def quantised(
    restored: "Restored",
    model: "Deployed",
    file: "OnnxFile | TorchFile",
    pictures: "Sequence[Image]",
) -> None:
    """Have the file compute in eight bits, and print what that does to its IoU.

    Args:
        restored: the run that it is of.
        model: what the file computes.
        file: in single precision.
        pictures: see :func:`calibration`.

    Raises:
        ConfigError: it cannot be quantised.
        DataError: a picture of the run's target cannot be read.
    """
    from sfseg.data.geometry import resize_image, size_by
    from sfseg.export.int8 import in_eight_bits
    from sfseg.export.onnx_file import OnnxFile, OnnxRuntime
    from sfseg.export.scoring import change

    assert isinstance(file, OnnxFile)
    view = eval_view(restored)
    resized = [resize_image(image, size_by(view.size, image.shape[:2])) for image in pictures]
    exact = OnnxRuntime(file.content)
    log.info("int8: calibrated on %d images", len(resized))
    file.become(in_eight_bits(file.proto, (model.taken(as_batch(image)) for image in resized)))
    scenes = own_scenes(restored, "target_eval")
    if scenes is None or not scenes.has_labels:
        samples = [(as_batch(image)[0], None) for image in resized]
        found = change(model, exact, file, samples, restored.labels)
    else:
        found = change(model, exact, file, labelled(scenes, view), restored.labels)
    show_change(found)


def calibration(cfg: DictConfig, restored: "Restored") -> "list[Image]":
    """Pictures (H, W, 3) without labels: those that a setting names, or the run's own.

    Raises:
        ConfigError: neither are there.
    """
    if cfg.calibration is not None:
        return read_pictures(cfg, restored, "calibration", CALIBRATED_ON)
    scenes = own_scenes(restored, "target_train")
    if scenes is None:
        raise ConfigError(
            "calibration must name images of the domain that the file is for, since those of the "
            "run are not here; set calibration=<folder>"
        )
    return [scenes.image(k) for k in evenly(len(scenes), CALIBRATED_ON)]


def own_scenes(restored: "Restored", name: str) -> "Scenes | None":
    """A set of the run's own data; None where its files are not here."""
    from sfseg.data.opening import missing_folder, opened
    from sfseg.errors import DataError

    reader = restored.config.data.scenes.get(name)
    if reader is None:
        return None
    factory = build(reader)
    if (folder := missing_folder(factory)) is not None:
        log.info("the run's %s is not here: folder %s does not exist", name, folder)
        return None
    try:
        return opened(name, factory, restored.labels)
    except DataError as error:
        log.info("the run's %s is not here: %s", name, error)
        return None


def labelled(scenes: "Scenes", view: "EvalView") -> "Iterator[tuple[Tensor, Tensor]]":
    """Images and labels of a set as they are evaluated."""
    from sfseg.data.folder import FolderDataset

    data = FolderDataset(scenes, view=view)
    for index in evenly(len(data), SCORED_ON):
        sample = data[0, index]
        yield sample["image"], sample["label"]


def eval_view(restored: "Restored") -> "EvalView":
    """Sizes of images and labels in the run's evaluation."""
    view: EvalView = build(restored.config.data.module.eval_view)
    return view


def as_batch(image: "Image") -> "Tensor":
    """(1, 3, H, W) of (H, W, 3)."""
    import torch

    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def show_change(found: "Change") -> None:
    """Draw a table of what eight bits do to the IoU."""
    from sfseg.report.tables import show

    beside = f"{100 * found.beside.miou['mIoU']:.2f}"
    rows = [["of its masks, those in single precision taken for right", "100.00", beside, "-"]]
    if found.before is not None and found.after is not None:
        before, after = (100 * scores.miou["mIoU"] for scores in (found.before, found.after))
        rows.insert(
            0, ["of the run's target", f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
        )
    show(f"int8, {found.images} images", ["mIoU", "float32", "int8", "change"], rows)
