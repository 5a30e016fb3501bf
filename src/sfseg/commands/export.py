"""``sfseg-export``: a trained network as a file that other programs run."""

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from sfseg import __version__
from sfseg.commands.predict import plain_list, sources
from sfseg.config.composition import as_typed, command, require_flags
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sfseg.data.geometry import Image
    from sfseg.export.agreement import Row
    from sfseg.export.deployed import Deployed
    from sfseg.export.onnx_file import OnnxFile
    from sfseg.export.torch_file import TorchFile
    from sfseg.runs.checkpoints import Restored

log = logging.getLogger(__name__)

SIZES = ((96, 160), (131, 207), (256, 320))
"""Height and width of the pictures that a file is compared on; no stride divides the second."""
RUNS_IN = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export"}
"""What runs a file, by how its name ends."""


def main() -> None:
    """Entry point of ``sfseg-export``."""
    command(export, "export")


def export(cfg: DictConfig) -> None:
    """Write the network of a checkpoint as a file, once it is known to compute the same.

    Raises:
        ConfigError: a setting or a checkpoint that cannot be, a library that is missing, a network
            that cannot be exported, or a file that differs from it.
        DataError: no pictures to compare or to calibrate on.
        OutputError: the disk takes nothing.
    """
    from sfseg.commands.export_int8 import calibration, quantised
    from sfseg.export.agreement import compare, require_agreement
    from sfseg.export.installed import require_installed
    from sfseg.runs.checkpoints import restore
    from sfseg.runs.quiet import quiet_lightning
    from sfseg.storage.atomic import output_to

    quiet_lightning()
    require_flags(cfg, "overwrite", "confidence", "grid_sample", "int8")
    output = place(cfg)
    require_installed(output.suffix, int8=cfg.int8)
    restored = restore(cfg.ckpt_path)
    model = deployed(cfg, restored)
    pictures = pairs(cfg, restored)
    calibrated_on = calibration(cfg, restored) if cfg.int8 else []
    log.info("export: %s, in single precision; this takes a minute or two", ", ".join(model.names))
    file = made(cfg, output.suffix, model, metadata(restored, model))
    rows = compare(model, file, pictures)
    show_rows(rows, RUNS_IN[output.suffix])
    require_agreement(model, rows)
    if all(row.classes == 1 for row in rows):
        log.warning(
            "the network sees one class everywhere in the pictures that the file was compared on, "
            "which says little; give images of its own kind with images="
        )
    if cfg.int8:
        quantised(restored, model, file, calibrated_on)
        rows = compare(model, file, pictures)
        show_rows(rows, f"{RUNS_IN[output.suffix]}, in eight bits")
        require_agreement(model, rows, int8=True)
    if model.published != model.names:
        file.publish()
        require_agreement(model, compare(model, file, pictures[:1]), int8=cfg.int8)
    with output_to(output):
        size = file.write(output)
    log.info("%s: %.1f MB, %s", output, size / 1e6, ", ".join(model.published))


def made(
    cfg: DictConfig, suffix: str, model: "Deployed", said: dict[str, str]
) -> "OnnxFile | TorchFile":
    """The file, not written yet, whose outputs are all that the model computes."""
    from sfseg.export.onnx_file import OnnxFile
    from sfseg.export.openvino_file import OpenVinoFile
    from sfseg.export.torch_file import TorchFile
    from sfseg.export.tracing import traced
    from sfseg.ops.bilinear import by_gathering

    with nullcontext() if cfg.grid_sample else by_gathering():
        program = traced(model)
    kinds: dict[str, type[OnnxFile | TorchFile]]
    kinds = {".onnx": OnnxFile, ".xml": OpenVinoFile, ".pt2": TorchFile}
    return kinds[suffix](program, model, said)


def place(cfg: DictConfig) -> Path:
    """Where the file is written.

    Raises:
        ConfigError: something is there, or it would be called as what it is not.
    """
    from sfseg.storage.atomic import file_in_the_way

    output = Path(as_typed(cfg, "output")).expanduser()
    if output.suffix not in RUNS_IN:
        raise ConfigError(
            "output must be a file that ends in .onnx (ONNX), .xml (OpenVINO) or .pt2 "
            f"(torch.export), got {output}"
        )
    if cfg.int8 and output.suffix == ".pt2":
        raise ConfigError(
            f"int8 must be false for {output}: of torch.export's files none is quantised; write "
            ".onnx or .xml"
        )
    beside = [output.with_suffix(".bin")] if output.suffix == ".xml" else []
    for path in (output, *beside):
        if path.is_dir():
            raise ConfigError(f"output={path} is a folder; choose another name for the file")
        if path.exists() and not cfg.overwrite:
            raise ConfigError(f"output={path} exists; choose another or set overwrite=true")
    if (file := file_in_the_way(output.parent)) is not None:
        raise ConfigError(f"output={output} cannot be: {file} is a file; choose another")
    return output


def deployed(cfg: DictConfig, restored: "Restored") -> "Deployed":
    """What the file will compute, in single precision.

    Raises:
        ConfigError: inputs or outputs that do not exist, or do not go together.
    """
    from typing import get_args

    from sfseg.export.deployed import Deployed, Input, Outputs

    for name, choices in (("outputs", get_args(Outputs)), ("input", get_args(Input))):
        if cfg[name] not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {cfg[name]}")
    precision = OmegaConf.select(restored.config, "trainer.precision", default="32-true")
    if precision != "32-true":
        log.info("the run computed in %s; the file computes in float32", precision)
    network = restored.network.float()
    try:
        model = Deployed(network, cfg.outputs, confidence=cfg.confidence, input=cfg.input)
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
    from sfseg.data.toyscapes.scenes import Toyscapes

    if cfg.images is None:
        scenes = Toyscapes("city", "test", length=2, size=SIZES[-1])
        two = [scenes.image(0), scenes.image(1)]
    else:
        two = read_pictures(cfg, restored, "images", 2)
        two = two if len(two) == 2 else [two[0], two[0][:, ::-1]]
    return [
        torch.from_numpy(np.stack([resize_image(image, size) for image in two]))
        .permute(0, 3, 1, 2)
        .contiguous()
        for size in SIZES
    ]


def read_pictures(cfg: DictConfig, restored: "Restored", setting: str, most: int) -> "list[Image]":
    """Pictures (H, W, 3) that a setting names, evenly chosen among them where they are too many.

    Raises:
        ConfigError: a limit or a range of values that is none.
        DataError: there are none, or one cannot be read.
    """
    from sfseg.data.images import read_image, value_range_of
    from sfseg.data.inputs import find_images
    from sfseg.data.paths import Limits

    chosen = restored.value_range if cfg.value_range is None else plain_list(cfg.value_range)
    try:
        max_pixels = Limits(max_pixels=cfg.max_pixels).max_pixels
        values = value_range_of(chosen)
    except ValueError as error:
        raise ConfigError(str(error).replace("data.value_range", "value_range")) from error
    paths = find_images(sources(cfg, setting), setting)
    return [
        read_image(paths[k], max_pixels=max_pixels, value_range=values)
        for k in evenly(len(paths), most)
    ]


def evenly(count: int, most: int) -> list[int]:
    """Positions among so many, ``most`` of them at most, from the first to the last."""
    import numpy as np

    return [round(place) for place in np.linspace(0, count - 1, min(most, count))]


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
    pixels = {"uint8": "0 to 255", "float32": "0 to 1"}[model.input]
    return {
        "sfseg_version": __version__,
        "label_space": labels.name,
        "classes": json.dumps(labels.classes),
        "palette": json.dumps(labels.palette),
        "input": f"image: {model.input} RGB (batch, 3, height, width), {pixels}, of any size from "
        f"{LEAST_SIDE} pixels a side; normalised and padded inside",
        "evaluated": str(EvalView(size=restored.config.data.eval_size)),
        "outputs": "; ".join(f"{name}: {meaning[name]}" for name in model.published),
    }


def show_rows(rows: "Sequence[Row]", runs_in: str) -> None:
    """Draw a table of how the file compares with the network."""
    from sfseg.report.tables import show

    header = ["height x width", "batch", "largest logit difference", "equal pixels"]
    shown = [
        [f"{row.size[0]} x {row.size[1]}", str(row.batch), f"{row.difference:.1e}",
         f"{row.equal:.6f}"]
        for row in rows
    ]  # fmt: skip
    show(f"the file in {runs_in}, compared with torch", header, shown)


if __name__ == "__main__":
    main()
