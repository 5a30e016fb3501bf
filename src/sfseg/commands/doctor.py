"""``sfseg-doctor``: what this installation can do, and what a run's settings would cost."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfseg.config.composition import build, command, overrides
from sfseg.config.information import VERSION, tell
from sfseg.errors import ConfigError
from sfseg.types import size_text

if TYPE_CHECKING:
    from sfseg.data.geometry import Size
    from sfseg.runs.environment import Fact
    from sfseg.runs.noise import Measured

USAGE = """\
sfseg-doctor                            versions, devices, fast paths, extras, folders, services
sfseg-doctor <settings of sfseg-train>  and what they cost: steps on noise, without data or weights

    sfseg-doctor method=uniuvpt backbone=swin_b data=gta5_to_cityscapes preset=12gb
"""
CROP = 512
"""Edge of crops that follow the pictures, at most."""
WARM_UP, STEPS = 1, 2
FILE = "doctor.json"


def main() -> None:
    """Entry point of ``sfseg-doctor``."""
    program, *words = sys.argv
    if {"-h", "--help"} & set(words):
        tell(USAGE)
    elif "--version" in words:
        tell(VERSION)
    elif words:
        sys.argv = [program, "task_name=doctor", *words]
        command(cost, "train")
    else:
        sys.exit(examine())


def examine() -> int:
    """Print what is found; the exit code."""
    from sfseg.runs.environment import environment

    found = environment()
    tell("\n".join(lines_of(found)))
    is_broken = any(fact.is_broken for facts in found.values() for fact in facts)
    return ConfigError.exit_code if is_broken else 0


def lines_of(sections: "dict[str, list[Fact]]") -> list[str]:
    """The report as plain text, which can be pasted anywhere."""
    lines = []
    for title, facts in sections.items():
        lines += ["", title]
        width = max((len(fact.name) for fact in facts), default=0)
        for fact in facts:
            mark = "!" if fact.is_broken else " "
            advice = f"  -> {fact.advice}" if fact.advice else ""
            lines.append(f"{mark} {fact.name:{width}}  {fact.value}{advice}")
    return [*lines[1:], ""]


def cost(cfg: DictConfig) -> None:
    """Measure some steps of a run's settings, and print what they took.

    Raises:
        ConfigError: a setting that cannot work, or too little memory.
    """
    from sfseg.runs.environment import presets
    from sfseg.runs.memory import is_out_of_memory
    from sfseg.runs.noise import Noise, measure
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    labels, sizes = build(cfg.data.module.labels), crops(cfg)
    batches = Noise(cfg.method.needs, cfg.data.module.batch_size, sizes, labels.num_classes)
    try:
        found = measure(cfg, batches, labels, steps=STEPS, warm_up=WARM_UP)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"there is too little memory for {' '.join(overrides())}; choose a smaller "
            f"preset={'|'.join(presets())}"
        ) from error
    limit = presets().get(str(HydraConfig.get().runtime.choices.get("preset")))
    tell("\n".join(report(cfg, sizes, found, limit)))
    folder = Path(HydraConfig.get().runtime.output_dir)
    record = {"settings": overrides(), **asdict(found)}
    (folder / FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")


def crops(cfg: DictConfig) -> "dict[str, Size]":
    """Height and width of the crops of each domain; those that follow pictures at their largest."""
    views = cfg.data.module.views
    sizes = {name: views[name].crop or (CROP, CROP) for name in ("source", "target")}
    return {name: (int(height), int(width)) for name, (height, width) in sizes.items()}


def report(
    cfg: DictConfig, sizes: "dict[str, Size]", found: "Measured", limit: int | None
) -> list[str]:
    """Lines on what the steps took; ``limit`` is the memory of the preset in GiB."""
    from sfseg.runs.environment import processor

    gib = found.peak_mib / 2**10
    fits = "" if limit is None else f" of {limit}: {'fits' if gib <= limit else 'does not fit'}"
    shown = ", ".join(
        f"{cfg.data.module.batch_size} x {size_text(sizes[name])} of the {name}"
        for name in ("source", "target") if {name, f"{name}_labels"} & set(cfg.method.needs)
    )  # fmt: skip
    where = processor() if found.device == "cpu" else found.device
    return [
        f"{'crops':12}  {shown}",
        f"{'precision':12}  {cfg.trainer.precision}",
        f"{'parameters':12}  {found.parameters:,}, {found.trainable:,} of them train",
        f"{'a batch':12}  {found.seconds:.2f} s, {found.images_per_second:.2f} images/s on {where}",
        f"{'peak memory':12}  {gib:.2f} GiB{fits}",
        "",
    ]


if __name__ == "__main__":
    main()
