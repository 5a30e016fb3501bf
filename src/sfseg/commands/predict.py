"""``sfseg-predict``: a folder of images in, label maps and overlays out."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sfseg.config.composition import build, command
from sfseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sfseg.data.geometry import EvalView
    from sfseg.data.paths import Limits
    from sfseg.report.drawing import Pixels

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of ``sfseg-predict``."""
    command(predict, "predict")


def predict(cfg: DictConfig) -> None:
    """Predict every image below a folder; unreadable ones are reported at the end.

    Raises:
        ConfigError: no output asked for, or the output folder has files already.
        DataError: no folder, no images, or some images could not be read.
    """
    import torch
    from rich.progress import track

    from sfseg.data.images import read_image
    from sfseg.report.drawing import write_png
    from sfseg.runs.checkpoints import restore
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    source, output = Path(cfg.images), Path(cfg.output)
    wanted = [name for name in ("labels", "overlays", "confidence") if cfg[name]]
    if not wanted:
        raise ConfigError("nothing to write: set one of labels, overlays, confidence to true")
    if output.is_dir() and any(output.iterdir()) and not cfg.overwrite:
        raise ConfigError(f"output={output} is not empty; choose another or set overwrite=true")
    paths = find_images(source)
    restored = restore(cfg.ckpt_path)
    view, limits = sizes(cfg, restored.config.data.eval_size)
    inference = build(cfg.evaluation)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    infer = predictor(restored.network, inference, cfg.device, view, cfg.precision)
    log.info("prediction: %s, %s, precision %s", view, inference, cfg.precision)
    failed = []
    for path in track(paths, description=f"predicting {len(paths)} images"):
        try:
            image = read_image(path, limits.max_pixels)
        except DataError as error:
            failed.append(str(error))
            continue
        name = path.relative_to(source).with_suffix(".png")
        drawn = pictures(image, infer, wanted, restored.labels.palette, cfg.opacity)
        for kind, picture in drawn.items():
            write_png(output / kind / name, picture)
    log.info("%d images in %s: %s", len(paths) - len(failed), output, ", ".join(wanted))
    if failed:
        listed = "\n  ".join(failed[:5])
        raise DataError(f"{len(failed)} of {len(paths)} images were skipped:\n  {listed}")


def sizes(cfg: DictConfig, eval_size: Any) -> "tuple[EvalView, Limits]":
    """What the network sees of an image, and how large images may be.

    Raises:
        ConfigError: a size that cannot be.
    """
    from sfseg.data.geometry import EvalView
    from sfseg.data.paths import Limits

    try:
        return EvalView(size=cfg.input_size or eval_size), Limits(max_pixels=cfg.max_pixels)
    except ValueError as error:
        raise ConfigError(str(error).replace("eval_size", "input_size")) from error


Predictor = Callable[["Pixels"], tuple["Pixels", "Pixels"]]
"""An (H, W, 3) image to class ids (H, W) and confidence (H, W) in 0..255."""


def predictor(
    network: Any, inference: Any, device_name: str, view: "EvalView", precision: str
) -> Predictor:
    """The network as a function of images, on its device, as the trainer would evaluate it."""
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    from sfseg.data.geometry import resize_image, size_by
    from sfseg.ops.inference import resize

    available = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(available if device_name == "auto" else device_name)
        network = network.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={device_name} cannot be used: {reason}; try auto") from error
    kind = {"cuda": "gpu"}.get(device.type, device.type)
    try:
        settings: Any = {"accelerator": kind, "precision": precision}
        trainer = Trainer(**settings, devices=1, logger=False, enable_checkpointing=False)
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"precision={precision} cannot be used: {error}") from error
    plugin = trainer.precision_plugin
    network = plugin.convert_module(network)

    @torch.inference_mode()
    def infer(image: "Pixels") -> tuple["Pixels", "Pixels"]:
        full = (image.shape[0], image.shape[1])
        seen = resize_image(image, size_by(view.size, full))
        tensor = torch.from_numpy(seen).permute(2, 0, 1)[None].to(device)
        with plugin.forward_context():
            logits = inference(network, tensor)
        logits = resize(logits.float(), full)
        confidence, label = logits.softmax(dim=1).max(dim=1)
        scaled = (confidence[0] * 255).round().to(torch.uint8)
        return label[0].to(torch.uint8).cpu().numpy(), scaled.cpu().numpy()

    return infer


def pictures(
    image: "Pixels", infer: Predictor, wanted: list[str], palette: Any, opacity: float
) -> dict[str, "Pixels"]:
    """What is wanted of an image: labels (H, W), overlays (H, W, 3), confidence (H, W)."""
    from sfseg.report.drawing import overlay

    label, confidence = infer(image)
    drawn = {"labels": label, "confidence": confidence}
    if "overlays" in wanted:
        drawn["overlays"] = overlay(image, label, palette, opacity)
    return {kind: drawn[kind] for kind in wanted}


def find_images(source: Path) -> list[Path]:
    """All images below a folder.

    Raises:
        DataError: no folder, no images, or two whose outputs would have one name.
    """
    from sfseg.data.paths import list_images

    if not source.is_dir():
        raise DataError(f"images={source} does not exist or is no folder")
    paths = list_images(source)
    if not paths:
        raise DataError(f"images={source} holds no image files")
    seen: dict[Path, Path] = {}
    for path in paths:
        name = path.relative_to(source).with_suffix(".png")
        if name in seen:
            raise DataError(
                f"{seen[name]} and {path} would both be written as {name}; rename one of them"
            )
        seen[name] = path
    return paths


if __name__ == "__main__":
    main()
