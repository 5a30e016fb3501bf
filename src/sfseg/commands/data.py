"""``sfseg-data``: check the images and labels of a task before training, or draw some of them."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfseg.config.composition import build, overrides, plain, subcommands
from sfseg.errors import ConfigError, DataError
from sfseg.runs.folder import claim, versions

if TYPE_CHECKING:
    from sfseg.data.folder import Scenes
    from sfseg.data.report import Pictures, Report
    from sfseg.labels import LabelSpace
    from sfseg.runs.contact_sheet import Sets

log = logging.getLogger(__name__)

USAGE = """\
usage: sfseg-data check|preview [data=<group>] [key=value ...]

  check    read all images and labels, report what is wrong or odd and how often classes occur
  preview  draw a few scenes of each set with their labels into one picture

sfseg-data check --help lists the settings.
"""
DRAWN, OPACITY = 3, 0.7
"""What a check draws: the first scenes of each set, and how strong the class colours are."""


def main() -> None:
    """Entry point of ``sfseg-data``; its first argument says what to do."""
    subcommands(TASKS, USAGE)


def check(cfg: DictConfig) -> None:
    """Read all scenes of all sets and report.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: faults were found.
    """
    from sfseg.data.report import Report
    from sfseg.runs.contact_sheet import draw

    if cfg.samples is not None:
        require_positive("samples", cfg.samples)
    labels, sets = opened_sets(cfg)
    folder = taken(cfg)
    reports: dict[str, Report] = {}
    seen: Pictures = {}
    for name, scenes in sets.items():
        if isinstance(scenes, DataError):
            reports[name] = Report.unopened(scenes)
        else:
            reports[name] = examined(scenes, name, seen, cfg)
    if cfg.with_source is None:
        reports = without_source(reports, cfg)
    path = folder / "check.json"
    write_report(path, cfg, reports)
    show_reports(reports, labels.classes)
    log.info("report: %s", path)
    first = {name: range(DRAWN) for name in sets}
    draw(folder / "check.png", labels, sets, first, OPACITY, with_names=True)
    faults = sum(len(report.faults) for report in reports.values())
    if faults:
        raise DataError(f"the data have faults ({faults}); all are listed in {path}")


def opened_sets(cfg: DictConfig) -> "tuple[LabelSpace, Sets]":
    """The task's classes, and each of its sets or why its files cannot be listed.

    Raises:
        ConfigError: a setting of a set is refused, or its classes are not the task's.
    """
    from sfseg.data.eval_sets import Judged
    from sfseg.data.needs import no_images_of_its_own
    from sfseg.data.opening import FEW, opened
    from sfseg.runs.plan import check_added

    check_added(cfg, overrides())
    nodes = plain(cfg.data.scenes, resolve=True)
    judged = Judged(build(cfg.data.get("eval_sets")))
    labels: LabelSpace = build(cfg.data.module.labels)
    others = build(cfg.data.module.get("replacement"))
    sets: Sets = {}
    given = {name for name, node in nodes.items() if node is not None}
    if others is not None and others.is_given:
        given.add(FEW)
    for name in nodes:
        if name not in given or (cfg.get("with_source") is False and is_source(name)):
            continue
        if name == "target_eval" and judged.sets:
            continue
        try:
            factory = build(cfg.data.scenes[name]) or no_images_of_its_own
            translations = cfg.data.get("translated")
            sets[name] = opened(name, factory, labels, translations, replacement=others)
        except DataError as error:
            sets[name] = error
    for name in judged.sets:
        try:
            sets[f"{name}_eval"] = judged.opened_set(name, labels)
        except DataError as error:
            sets[f"{name}_eval"] = error
    return labels, sets


def taken(cfg: DictConfig) -> Path:
    """The run's folder, claimed."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    resolved = {"data": {"scenes": plain(cfg.data.scenes, resolve=True)}}
    claim(folder, plain(cfg, resolve=False), overrides(), resolved).release()
    return folder


def is_source(name: str) -> bool:
    """Whether a set is one of the source's."""
    return name in ("source_train", "source_eval")


def without_source(reports: "dict[str, Report]", cfg: DictConfig) -> "dict[str, Report]":
    """The reports, in which a source whose folder does not exist is odd, but no fault.

    People who adapt a given model have a target alone.
    """
    from dataclasses import replace

    from sfseg.data.opening import missing_folder

    sources = {name: report for name, report in reports.items() if is_source(name)}
    if any(missing_folder(build(cfg.data.scenes[name])) is None for name in sources):
        return reports
    odd = {
        name: replace(report, findings=tuple(replace(f, is_fault=False) for f in report.findings))
        for name, report in sources.items()
    }
    return {**reports, **odd}


def require_positive(name: str, number: object) -> None:
    """Refuse a setting that is no whole number from 1.

    Raises:
        ConfigError: names the setting.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {number}")


def examined(scenes: "Scenes", name: str, seen: "Pictures", cfg: DictConfig) -> "Report":
    """Read a set and report on it; its class counts are kept where all is well."""
    from rich.progress import track

    from sfseg.data.check import look_at, spread
    from sfseg.data.report import Report
    from sfseg.data.statistics import counts_file, store

    title = _title(name)
    # Named before the files are read: one that changes meanwhile must not keep its old counts.
    kept = counts_file(scenes, str(cfg.data.cache_dir))
    indices = spread(len(scenes), cfg.samples)
    looks = look_at(scenes, indices, with_labels=scenes.has_labels)
    found = list(track(looks, total=len(indices), description=f"reading {title}"))
    report = Report.of(scenes, title, found, seen)
    if kept is not None and report.is_complete:
        store(report.counts, kept)
    return report


def write_report(path: Path, cfg: DictConfig, reports: "Mapping[str, Report]") -> None:
    """Everything that was found, as JSON."""
    document = {
        "data": HydraConfig.get().runtime.choices["data"],
        "classes": str(cfg.data.classes),
        "samples": cfg.samples,
        "sizes": "width x height",
        "versions": versions(),
        "sets": {name: report.to_dict() for name, report in reports.items()},
    }
    try:
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def show_reports(reports: "Mapping[str, Report]", classes: Sequence[str]) -> None:
    """Draw a table of the sets, what was found, and a table of the classes."""
    from sfseg.data.check import listing
    from sfseg.report.tables import console, show

    header = ["set", "images", "width x height", "labels", "faults", "suspicions"]
    show("sets", header, [[_title(name), *_summary(r)] for name, r in reports.items()])
    for name, report in reports.items():
        messages: dict[tuple[str, str], list[str]] = {}
        for found in (*report.faults, *report.suspicions):
            word = "fault" if found.is_fault else "suspicion"
            messages.setdefault((word, found.kind), []).append(found.message)
        for (word, kind), lines in messages.items():
            text = f"{word} in {_title(name)}, {len(lines)} x {kind}{listing(lines)}"
            # Names of files need not be valid text.
            text = text.encode(errors="backslashreplace").decode()
            console().print(text, soft_wrap=True, markup=False, highlight=False)
    labelled = {_title(name): report for name, report in reports.items() if report.has_labels}
    columns = [_occurrences(report) for report in labelled.values()]
    if columns:
        rows = [list(cells) for cells in zip(classes, *columns, strict=True)]
        show("labelled pixels in percent, and number of images", ["class", *labelled], rows)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _summary(report: "Report") -> list[str]:
    """A set in a row: how many images, of which sizes, and what was found."""
    from sfseg.types import size_text

    number = f"{report.scenes:,}"
    if report.official not in (None, report.scenes):
        number += f" of {report.official:,}"
    if len(report.looks) < report.scenes:
        number += f", {len(report.looks):,} read"
    sizes = [size_text(size) for size in report.sizes]
    extent = sizes[0] if len(sizes) == 1 else "-"
    if len(sizes) > 1:
        extent = f"{sizes[0]} to {sizes[-1]}, {len(sizes)} sizes"
    labels = "yes" if report.has_labels else "no"
    return [number, extent, labels, str(len(report.faults)), str(len(report.suspicions))]


def _occurrences(report: "Report") -> list[str]:
    """For each class its share of the labelled pixels and the number of images with it."""
    from sfseg.report.tables import percent

    width = len(f"{report.images.max():,}")
    return [
        f"{percent(share)} {number:>{width},}" if number else "-"
        for share, number in zip(report.shares, report.images, strict=True)
    ]


def preview(cfg: DictConfig) -> None:
    """Draw a few scenes of each set with their labels; source and target are side by side.

    Training images of the source are shown as training would show them: translated, where they are.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: there is no scene that can be drawn.
    """
    from sfseg.data.check import spread
    from sfseg.runs.contact_sheet import draw

    require_positive("images", cfg.images)
    labels, sets = opened_sets(cfg)
    chosen = {}
    for name, scenes in sets.items():
        if isinstance(scenes, DataError):
            log.warning("the %s set cannot be drawn: %s", _title(name), scenes)
        else:
            chosen[name] = spread(len(scenes), cfg.images)
    if not any(chosen.values()):
        raise DataError("no scene could be drawn; sfseg-data check says what is wrong")
    draw(taken(cfg) / "preview.png", labels, in_style(sets, cfg), chosen, cfg.opacity)


def in_style(sets: "Sets", cfg: DictConfig) -> "Sets":
    """The sets, of which the source's training images are shown as ``data/translation`` says."""
    from sfseg.data.translation import FourierStyle, StyledScenes

    translation = build(cfg.data.get("translation"))
    source, target = sets.get("source_train"), sets.get("target_train")
    if translation is None or isinstance(source, DataError | None):
        return sets
    if isinstance(target, DataError | None):
        return sets
    style = FourierStyle(translation, target, build(cfg.data.target_view), seed=cfg.seed)
    return {**sets, "source_train": StyledScenes(source, style)}


TASKS: dict[str, Callable[[DictConfig], None]] = {"check": check, "preview": preview}

if __name__ == "__main__":
    main()
