"""``sfseg-export``: a trained network as a file that other programs run."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from sfseg import __version__
from sfseg.commands.predict import plain_list, sources
from sfseg.config.composition import as_typed, command
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sfseg.export.agreement import Row
    from sfseg.export.deployed import Deployed
    from sfseg.runs.checkpoints import Restored

log = logging.getLogger(__name__)

SIZES = ((64, 96), (131, 207), (256, 320))
"""Height and width of the pictures that a file is compared on; no stride divides the second."""


def main() -> None:
    """Entry point of ``sfseg-export``."""
    command(export, "export")


def export(cfg: DictConfig) -> None:
    """Write the network of a checkpoint as a file, once it is known to compute the same.

    Raises:
        ConfigError: a setting or a checkpoint that cannot be, a library that is missing, a network
            that cannot be exported, or a file that differs from it.
        DataError: no pictures to compare on.
    """
    from sfseg.export.agreement import compare, require_agreement
    from sfseg.export.installed import require_installed
    from sfseg.export.onnx_file import OnnxRuntime, onnx_file, without_logits
    from sfseg.export.tracing import traced
    from sfseg.runs.checkpoints import restore
    from sfseg.runs.quiet import quiet_lightning
    from sfseg.storage.atomic import write_whole

    quiet_lightning()
    require_installed()
    output = place(cfg)
    restored = restore(cfg.ckpt_path)
    model = deployed(cfg, restored)
    pictures = pairs(cfg, restored)
    log.info("export: %s, in single precision; this takes a minute or two", ", ".join(model.names))
    file = onnx_file(traced(model), model.names, metadata(restored, model))
    content = file.SerializeToString()
    rows = compare(model, OnnxRuntime(content), pictures)
    show_rows(rows)
    require_agreement(model, rows)
    if all(row.classes == 1 for row in rows):
        log.warning(
            "the network sees one class everywhere in the pictures that the file was compared on, "
            "which says little; give images of its own kind with images="
        )
    if model.published != model.names:
        without_logits(file)
        content = file.SerializeToString()
        require_agreement(model, compare(model, OnnxRuntime(content), pictures[:1]))
    write_whole(output, lambda opened: opened.write(content))
    log.info("%s: %.1f MB, %s", output, len(content) / 1e6, ", ".join(model.published))


def place(cfg: DictConfig) -> Path:
    """Where the file is written.

    Raises:
        ConfigError: something is there, or it would be called as what it is not.
    """
    from sfseg.storage.atomic import file_in_the_way

    output = Path(as_typed(cfg, "output")).expanduser()
    if output.suffix != ".onnx":
        raise ConfigError(f"output must be a file that ends in .onnx, got {output}")
    if output.is_dir() or (output.exists() and not cfg.overwrite):
        raise ConfigError(f"output={output} exists; choose another or set overwrite=true")
    if (file := file_in_the_way(output.parent)) is not None:
        raise ConfigError(f"output={output} cannot be: {file} is a file; choose another")
    return output


def deployed(cfg: DictConfig, restored: "Restored") -> "Deployed":
    """What the file will compute, in single precision.

    Raises:
        ConfigError: outputs that do not exist, or do not go together.
    """
    from typing import get_args

    from sfseg.export.deployed import Deployed, Outputs

    if cfg.outputs not in get_args(Outputs):
        raise ConfigError(
            f"outputs must be one of {', '.join(get_args(Outputs))}, got {cfg.outputs}"
        )
    precision = OmegaConf.select(restored.config, "trainer.precision", default="32-true")
    if precision != "32-true":
        log.info("the run computed in %s; the file computes in float32", precision)
    try:
        model = Deployed(restored.network.float(), cfg.outputs, confidence=cfg.confidence)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return model.eval()


def pairs(cfg: DictConfig, restored: "Restored") -> "list[Tensor]":
    """Two pictures (2, 3, H, W) at each of :data:`SIZES`; of one alone, its mirror image too.

    Raises:
        ConfigError: a limit or a range of values that is none.
        DataError: there are none, or one cannot be read.
    """
    import numpy as np
    import torch

    from sfseg.data.geometry import resize_image
    from sfseg.data.images import read_image, value_range_of
    from sfseg.data.inputs import find_images
    from sfseg.data.paths import Limits
    from sfseg.data.toyscapes.scenes import Toyscapes

    if cfg.images is None:
        scenes = Toyscapes("city", "test", length=2, size=SIZES[-1])
        two = [scenes.image(0), scenes.image(1)]
    else:
        chosen = restored.value_range if cfg.value_range is None else plain_list(cfg.value_range)
        try:
            most = Limits(max_pixels=cfg.max_pixels).max_pixels
            values = value_range_of(chosen)
        except ValueError as error:
            raise ConfigError(str(error).replace("data.value_range", "value_range")) from error
        paths = find_images(sources(cfg), "images")[:2]
        two = [read_image(path, max_pixels=most, value_range=values) for path in paths]
        two = two if len(two) == 2 else [two[0], two[0][:, ::-1]]
    return [
        torch.from_numpy(np.stack([resize_image(image, size) for image in two]))
        .permute(0, 3, 1, 2)
        .contiguous()
        for size in SIZES
    ]


def metadata(restored: "Restored", model: "Deployed") -> dict[str, str]:
    """What the file says of itself."""
    from sfseg.data.geometry import EvalView
    from sfseg.export.deployed import LEAST_SIDE

    labels = restored.labels
    meaning = {
        "logits": "float32 (batch, classes, height, width); a softmax over classes gives "
        "probabilities",
        "labels": "uint8 (batch, height, width), positions in classes",
        "confidence": "uint8 (batch, height, width), the class's probability times 255",
    }
    return {
        "sfseg_version": __version__,
        "label_space": labels.name,
        "classes": json.dumps(labels.classes),
        "palette": json.dumps(labels.palette),
        "input": "image: uint8 RGB (batch, 3, height, width), 0 to 255, of any size from "
        f"{LEAST_SIDE} pixels a side; normalised and padded inside",
        "evaluated": str(EvalView(size=restored.config.data.eval_size)),
        "outputs": "; ".join(f"{name}: {meaning[name]}" for name in model.published),
    }


def show_rows(rows: "Sequence[Row]") -> None:
    """Draw a table of how the file compares with the network."""
    from sfseg.report.tables import show

    header = ["height x width", "batch", "largest logit difference", "equal pixels"]
    shown = [
        [f"{row.size[0]} x {row.size[1]}", str(row.batch), f"{row.difference:.1e}",
         f"{row.equal:.6f}"]
        for row in rows
    ]  # fmt: skip
    show("the file in onnxruntime, compared with torch", header, shown)


if __name__ == "__main__":
    main()
