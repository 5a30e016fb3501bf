"""How exported networks compare with torch: every backbone, every head, every prompted network.

Each network of ``conf/`` is written as ONNX and run in ONNX Runtime at sizes and batches that it
was not made with. Weights are random, but drawn so that the logits depend on the image: as first
drawn, many networks are nearly constant, and a wrong file of them would look right. One line of
JSON a network goes to a file; those that it holds are not made again. The table is made from it.

    python scripts/export_tables.py exports.json
    python scripts/export_tables.py exports.json --only backbone=mit_b0 method=uniuvpt,backbone=tiny
    python scripts/export_tables.py exports.json --table        # what is there, as markdown
"""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from sfseg.config.composition import CONF, build
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError
from sfseg.export.agreement import compare, require_agreement
from sfseg.export.deployed import Deployed
from sfseg.export.onnx_file import OnnxFile
from sfseg.export.tracing import traced
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.bilinear import by_gathering

CLASSES = 7
SIZES = ((64, 96), (67, 131), (128, 256))
"""Height and width: of any stride, of none, and larger."""
BACKBONES = sorted(p.stem for p in (CONF / "backbone").glob("[!_]*.yaml"))
HEADS = sorted(p.stem for p in (CONF / "backbone" / "head").glob("*.yaml"))
OF_VGG = {"fcn8s", "segnet"}
PROMPTED = [
    f"method={method},backbone={backbone}"
    for method in ("uniuvpt", "vpt_elr")
    for backbone in ("tiny", "mit_b0", "swin_t")
]
GATHERED = "grid_sample=false"
"""Word of a network that is written without GridSample."""


def networks() -> list[str]:
    """All, by the words of a command line, with commas between them."""
    heads = [
        f"backbone=tiny,backbone/head={head}" + ",backbone.network.name=vgg11_bn" * (head in OF_VGG)
        for head in HEADS
    ]
    gathered = [f"{PROMPTED[0]},{GATHERED}", f"backbone=tiny,backbone/head=mask2former,{GATHERED}"]
    return [*(f"backbone={name}" for name in BACKBONES), *heads, *PROMPTED, *gathered]


def pictures() -> list[Tensor]:
    """Two streets (2, 3, H, W) at each of :data:`SIZES`."""
    scenes = Toyscapes("city", "test", length=2)
    two = torch.stack([torch.from_numpy(scenes.image(k)).permute(2, 0, 1) for k in range(2)])
    return [two[..., :height, :width].contiguous() for height, width in SIZES]


def network(words: Sequence[str]) -> Segmenter:
    """A network of ``conf/`` whose logits depend on the image as those of a trained one do."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["backbone.pretrained=false", *words])
    torch.manual_seed(0)
    made: Segmenter = build(cfg.backbone.network, num_classes=CLASSES)
    if cfg.method.get("adapter") is not None:
        made = build(cfg.method.adapter)(made)
    return awake(made)


@torch.no_grad()
def draw(made: Segmenter) -> None:
    """What begins at zero, or next to it, so that it counts."""
    for name, parameter in made.named_parameters():
        if name.endswith("injector.gamma"):
            parameter.fill_(0.5)
        if name.endswith(("offsets.weight", "scores.weight")):
            parameter.normal_(std=0.1)
        if name.endswith(("class_head.classes.weight", "mask_embedding.4.weight")):
            parameter.normal_()  # queries of different classes and masks
        # FCN's scores begin at zero.
        if parameter.ndim == 4 and not parameter.any():
            parameter.normal_(std=0.1)


@torch.no_grad()
def awake(made: Segmenter) -> Segmenter:
    """Batch norm fitted to two pictures, prompts that count, logits of a deviation of 1."""
    draw(made)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    images = pictures()[0]
    made.train()
    made(images)
    made.eval()
    scale = made(images).std(dim=(0, 2, 3)).mean()
    for part in made.head.modules():
        if isinstance(part, nn.Conv2d) and part.out_channels == CLASSES:
            part.weight.div_(scale)
    return made


def record(name: str) -> dict[str, Any]:
    """How the file of a network compares with it; the error where it is refused."""
    words = [word for word in name.split(",") if word != GATHERED]
    model = Deployed(network(words), "logits").eval()
    start = time.process_time()
    with by_gathering() if GATHERED in name else nullcontext():
        file = OnnxFile(traced(model), model, {})
    seconds = time.process_time() - start
    rows = compare(model, file, pictures())
    try:
        require_agreement(model, rows)
        error = None
    except ConfigError as refused:
        error = str(refused)
    return {
        "network": name,
        "rows": [row._asdict() for row in rows],
        "error": error,
        "seconds": round(seconds),
        "nodes": len(file.proto.graph.node),
        "operations": sorted({node.op_type for node in file.proto.graph.node}),
        "megabytes": round(len(file.content) / 1e6, 1),
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a network, its worst row."""
    lines = [
        "| network | largest logit difference (largest logit) | equal pixels | classes seen "
        "| nodes | MB | export, CPU s |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in records:
        rows = one["rows"]
        difference = max(row["difference"] for row in rows)
        largest = max(row["largest"] for row in rows)
        equal, seen = min(row["equal"] for row in rows), max(row["classes"] for row in rows)
        lines.append(
            f"| {one['network'].replace(',', ' ')} | {difference:.1e} ({largest:.1f}) "
            f"| {equal:.6f} | {seen} | {one['nodes']} | {one['megabytes']:.0f} | {one['seconds']} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", default=networks())
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(words)
    lines = options.file.read_text().splitlines() if options.file.exists() else []
    records = [json.loads(line) for line in lines]
    if not options.table:
        known = {one["network"] for one in records}
        for name in options.only:
            if name not in known:
                records.append(record(name))
                with options.file.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                print(name, records[-1]["error"] or "right", flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
