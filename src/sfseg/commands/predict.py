"""``sfseg-predict``: pictures in, label maps and overlays out."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import as_typed, build, command
from sfseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfseg.data.geometry import SizeRule
    from sfseg.data.images import ValueRange
    from sfseg.data.inputs import Input
    from sfseg.data.odd_pictures import Facts
    from sfseg.labels import LabelSpace
    from sfseg.report.drawing import Pixels
    from sfseg.report.predictions import Predictions
    from sfseg.runs.checkpoints import Restored

log = logging.getLogger(__name__)

LEAST_TILE = 64 * 64
"""Pixels; a smaller tile would show a network nothing."""


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

    from sfseg.data.inputs import find_inputs
    from sfseg.data.odd_pictures import remarks
    from sfseg.report.predictions import KINDS, Predictions
    from sfseg.runs.checkpoints import restore
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    output = Path(as_typed(cfg, "output"))
    wanted = [kind for kind in KINDS if cfg[kind]]
    if not wanted:
        raise ConfigError(f"nothing to write: set one of {', '.join(KINDS)} to true")
    if output.is_dir() and any(output.iterdir()) and not cfg.overwrite:
        raise ConfigError(f"output={output} is not empty; choose another or set overwrite=true")
    inputs = find_inputs(sources(cfg), [output / kind for kind in KINDS])
    restored = restore(cfg.ckpt_path)
    ids = stored_ids(cfg.labels, restored.labels)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    reader, infer = Reader(cfg, restored), predictor(cfg, restored)
    written = Predictions(output, wanted, restored.labels, ids=ids, opacity=cfg.opacity)
    written.write_classes()
    failed = []
    for one in track(inputs, description=f"predicting {len(inputs)} images"):
        reason = attempt(one, reader, infer, written)
        if reason:
            failed.append(reason)
    for _, text in remarks(reader.facts):
        log.warning("images: %s", text.replace("data.value_range", "value_range"))
    log.info("%d images in %s: %s", len(inputs) - len(failed), output, ", ".join(wanted))
    if failed:
        listed = "\n  ".join(failed)
        raise DataError(f"{len(failed)} of {len(inputs)} images were skipped:\n  {listed}")


def sources(cfg: DictConfig, setting: str = "images") -> list[str]:
    """What a setting names: one or several folders, files or patterns."""
    several = OmegaConf.is_list(cfg[setting])
    named = map(str, cfg[setting]) if several else [as_typed(cfg, setting)]
    return [os.path.expanduser(name) for name in named]  # noqa: PTH111 - patterns stay as they are


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


class Reader:
    """Reads pictures as the run's evaluation does; ``facts`` holds what is known of them."""

    def __init__(self, cfg: DictConfig, restored: "Restored") -> None:
        from sfseg.data.paths import Limits

        try:
            self.max_pixels = Limits(max_pixels=cfg.max_pixels).max_pixels
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.value_range = value_range(cfg, restored)
        self.facts: list[Facts] = []

    def __call__(self, path: Path) -> "Pixels":
        """The picture (H, W, 3) in a file."""
        from sfseg.data.headers import read_header
        from sfseg.data.images import in_bytes, read_bytes, stored_values
        from sfseg.data.odd_pictures import facts_of

        data = read_bytes(path)
        stored = stored_values(data, path, self.max_pixels)
        image = in_bytes(stored, self.value_range)
        header = read_header(path, data, self.max_pixels)
        self.facts.append(facts_of(header, image, self.value_range, lambda: stored))
        return image


def value_range(cfg: DictConfig, restored: "Restored") -> "ValueRange":
    """Which stored values become 0 to 255: as in the run's evaluation unless given.

    Raises:
        ConfigError: no range.
    """
    from sfseg.data.images import value_range_of

    run = OmegaConf.select(restored.config, "data.scenes.target_eval.value_range")
    chosen = run if cfg.value_range is None else cfg.value_range
    try:
        return value_range_of(OmegaConf.to_object(chosen) if OmegaConf.is_list(chosen) else chosen)
    except ValueError as error:
        raise ConfigError(str(error).replace("data.value_range", "value_range")) from error


def attempt(
    one: "Input", read: Callable[[Path], "Pixels"], infer: "Predictor", written: "Predictions"
) -> str:
    """Read, predict and write a picture; why that was not possible, empty where it was.

    Raises:
        DataError: the output cannot be written.
    """
    import torch

    from sfseg.runs.memory import is_out_of_memory

    size = ""
    try:
        try:
            image = read(one.path)
        except DataError as error:
            return str(error)
        size = f" of {image.shape[1]}x{image.shape[0]} pixels"
        written.write(one.name, image, *infer(image, one.path))
    # As MemoryError, as errors of torch and as those of cv2.
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        return (
            f"{one.path}{size} is too large for the memory: set evaluation=slide, a smaller "
            f"tile_pixels (now {infer.tile_pixels}), or input_size=<length of the shorter side>"
        )
    return ""


class Predictor:
    """A network as a function of pictures of any size.

    Args:
        network: on its device.
        inference: evaluation protocol.
        device: where the network is.
        forward_context: in what the network computes.
        rule: which size the network sees.
        tile_pixels: what the network sees at once, unless ``inference`` shows it less.
    """

    def __init__(
        self,
        network: "torch.nn.Module",
        inference: Any,
        *,
        device: "torch.device",
        forward_context: Callable[[], AbstractContextManager[Any]],
        rule: "SizeRule",
        tile_pixels: int,
    ) -> None:
        self.network = network
        self.inference = inference
        self.device = device
        self.forward_context = forward_context
        self.rule = rule
        self.tile_pixels = tile_pixels
        self._has_said = False

    def __call__(self, image: "Pixels", path: Path) -> "tuple[Pixels, Pixels]":
        """An (H, W, 3) image to class ids (H, W) and confidence (H, W) in 0..255."""
        import torch

        from sfseg.data.geometry import fitting_size, resize_image
        from sfseg.ops.inference import resize
        from sfseg.ops.tiles import predict_tiles

        full = (image.shape[0], image.shape[1])
        size = fitting_size(self.rule, full)
        seen = resize_image(image, size)
        with torch.inference_mode():
            tensor = torch.from_numpy(seen).permute(2, 0, 1)[None].to(self.device)
            if max(full[0] * full[1], size[0] * size[1]) <= self.tile_pixels:
                logits = resize(self._scores(tensor).float(), full)
                probability, classes = logits.softmax(dim=1).max(dim=1)
                confidence = (probability[0] * 255).round().to(torch.uint8)
                return classes[0].to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()
            self._say(size, path)
            label, confidence = predict_tiles(self._scores, tensor, full, self.tile_pixels)
            return label.numpy(), confidence.numpy()

    def _scores(self, image: "Tensor") -> "Tensor":
        with self.forward_context():
            scores: Tensor = self.inference(self.network, image)
        return scores

    def _say(self, size: tuple[int, int], path: Path) -> None:
        """Log once that pictures are cut."""
        from sfseg.ops.tiles import tiling

        rows, columns = tiling(size, self.tile_pixels)
        if len(rows) * len(columns) == 1 or self._has_said:
            return
        self._has_said = True
        log.info(
            "%s is seen in %d tiles, since the network would see %dx%d pixels, more than "
            "tile_pixels=%d; larger pictures likewise. input_size shows it smaller",
            path, len(rows) * len(columns), size[1], size[0], self.tile_pixels,
        )  # fmt: skip


def predictor(cfg: DictConfig, restored: "Restored") -> Predictor:
    """The run's network on its device, as the trainer would evaluate it.

    Raises:
        ConfigError: a device, a precision or a size that cannot be.
    """
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    from sfseg.data.geometry import EvalView, rule_text

    try:
        view = EvalView(size=cfg.input_size or restored.config.data.eval_size)
    except ValueError as error:
        raise ConfigError(str(error).replace("eval_size", "input_size")) from error
    if not isinstance(cfg.tile_pixels, int) or cfg.tile_pixels < LEAST_TILE:
        raise ConfigError(
            f"tile_pixels must be a whole number from {LEAST_TILE}, got {cfg.tile_pixels}"
        )
    available = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(available if cfg.device == "auto" else cfg.device)
        network = restored.network.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={cfg.device} cannot be used: {reason}; try auto") from error
    kind = {"cuda": "gpu"}.get(device.type, device.type)
    try:
        settings: Any = {"accelerator": kind, "precision": cfg.precision}
        trainer = Trainer(**settings, devices=1, logger=False, enable_checkpointing=False)
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"precision={cfg.precision} cannot be used: {error}") from error
    inference = build(cfg.evaluation)
    seen = rule_text(view.size)
    log.info("prediction: input %s, %s, precision %s", seen, inference, cfg.precision)
    return Predictor(
        trainer.precision_plugin.convert_module(network),
        inference,
        device=device,
        forward_context=trainer.precision_plugin.forward_context,
        rule=view.size,
        tile_pixels=cfg.tile_pixels,
    )


if __name__ == "__main__":
    main()
