"""What a page on a run shows, gathered from its files; templates only place it."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfseg import __version__
from sfseg.errors import DataError
from sfseg.report.pages import headline
from sfseg.report.pages.alarms import alarms, picked
from sfseg.report.pages.classes import classes_of
from sfseg.report.pages.csv_files import Row, number
from sfseg.report.pages.curves import Chart, chart
from sfseg.report.pages.doubts import doubts
from sfseg.report.pages.pictures import Layout, Scene, scenes, shrunk
from sfseg.report.pages.png_top import read_top
from sfseg.report.pages.run_files import RunFiles
from sfseg.report.pages.state import adapts, reached, steps_of

log = logging.getLogger(__name__)
Changed = Sequence[tuple[str, str, str]]
"""Settings: name, value by default, value here."""
LABEL_FREE = {"combined": "agreement, class by class, %", "agreement": "agreement of all pixels, %",
              "entropy": "entropy (lower is surer)", "snd": "neighbourhood density"}  # fmt: skip
MOST_CURVES = 8
SHEET_ROWS = 4000
"""Pixels, from the top, of a sheet of which it is not known what is where."""


@dataclass
class Pictures:
    """Scenes before and after, or whole sheets where it is not known what is where in them.

    before, after: what the pictures are of.
    total: how many scenes the run has drawn.
    legend: classes and their colours as CSS has them.
    note: why there are none, or not all.
    """

    before: str
    after: str
    scenes: list[Scene]
    sheets: tuple[str, str] | None
    total: int
    legend: list[tuple[str, str]]
    note: str = ""


@dataclass
class Score:
    """The scores of one set in the headline; shares in [0, 1]."""

    domain: str
    after: float
    before: float
    images: int | None
    is_labelled: bool


@dataclass
class Corrected:
    """What the correction of pseudo-labels has changed of one class."""

    name: str
    times: int
    changed: int
    refused: int
    before: float
    after: float


def context(run: RunFiles, changed: Changed | None) -> dict[str, Any]:
    """All that the template of a run's page names."""
    labelled = [name for name, one in run.scores.items() if one.is_labelled]
    protocols = dict.fromkeys(one.protocol for one in run.scores.values() if one.protocol)
    return {
        "title": headline.title_of(run),
        "version": __version__,
        "run": run,
        "adapts": adapts(run),
        "identity": headline.identity(run),
        "scores": [_score(run, name) for name in run.scores],
        "protocols": list(protocols),
        "doubts": doubts(run),
        "alarms": alarms(run),
        "watched": bool(run.label_free or labelled),
        "classes": [classes_of(run, name) for name in labelled],
        "pictures": pictures_of(run),
        "charts": charts_of(run),
        "label_free": label_free_of(run),
        "corrected": corrected_of(run.corrections),
        "early_learning": _picture(run, "early_learning.png"),
        "certainty": _picture(run, _last_round(run)),
        "cost": headline.cost_of(run),
        "environment": headline.environment(run),
        "changed": changed,
    }


def _score(run: RunFiles, domain: str) -> Score:
    one = run.scores[domain]
    before = one.before[0]["mIoU"] if one.before else math.nan
    return Score(domain, one.summary["mIoU"], before, run.images.get(domain), one.is_labelled)


def pictures_of(run: RunFiles) -> Pictures | None:
    """The first and the last panels; None where there are none."""
    if not run.panels:
        return None
    first, last = min(run.panels), max(run.panels)
    has_source = any(one.before for one in run.scores.values()) or any(
        name.startswith("source_only/") for name in run.metrics.values
    )
    before = "source model" if first == 0 and has_source else f"step {first:,}"
    found = Pictures(before, f"step {last:,}", [], None, 0, [])
    try:
        if run.sheet:
            layout = Layout.of(run.sheet)
            found.scenes = list(scenes(run.panels[first], run.panels[last], layout))
            found.total = len(layout.rows)
            found.legend = _legend(run.sheet)
        else:
            old, new = (shrunk(read_top(run.panels[step], SHEET_ROWS)) for step in (first, last))
            found.sheets = (old, new)
    except (DataError, TypeError, ValueError) as error:
        found.note = str(error)
    return found


def _legend(sheet: Mapping[str, Any]) -> list[tuple[str, str]]:
    names, palette = sheet.get("classes", []), sheet.get("palette", [])
    return [
        (str(name), "#" + "".join(f"{int(channel) & 255:02x}" for channel in colour))
        for name, colour in zip(names, palette, strict=False)
    ]


def charts_of(run: RunFiles) -> list[Chart]:
    """Losses, learning rate and validation scores over steps."""
    steps, values = run.metrics.steps, run.metrics.values
    planned = steps_of(run)
    last = 0 if planned is None else planned if run.is_finished else reached(run)

    def done(logged: Sequence[float]) -> list[float]:
        # Lightning logs the n-th step as n - 1, and what follows the last one as that number.
        return [min(step + 1, last or math.inf) for step in logged]

    own = [name for name in values if name.startswith("train/")]
    losses = [name for name in own if name not in ("train/loss", "train/lr")]
    groups = [("Loss", ["train/loss"], False)]
    # Each of its own drawing: a small term beside a large one would be a flat line.
    groups += [(name.removeprefix("train/"), [name], False) for name in losses[:MOST_CURVES]]
    groups += [("Learning rate", ["train/lr"], False)]
    found = []
    means = [n for n in values if n.startswith("val/") and n.endswith("/mIoU")]
    if means:
        series = {}
        for name in means[:MOST_CURVES]:
            domain = name.split("/")[1]
            start = f"source_only/{domain}/mIoU"
            x, y = done(steps[name]), list(values[name])
            if start in values:
                x, y = [0.0, *x], [values[start][0], *y]
            series[domain] = (x, y)
        found.append(chart("Validation mIoU, %", series, last=last, percent=True))
    for title, names, is_share in groups:
        series = {n: (done(steps[n]), list(values[n])) for n in names if n in values}
        found.append(chart(title, series, last=last, percent=is_share) if series else None)
    return [one for one in found if one is not None]


def label_free_of(run: RunFiles) -> dict[str, Any] | None:
    """The score without labels over time, and the checkpoint it would pick."""
    rows = run.label_free
    if not rows:
        return None
    steps = [number(row, "step") for row in rows]
    best, last = picked(rows), rows[-1]
    moments = [] if best is None else [(number(best, "step"), "picked")]
    charts = [
        chart(title, {title: (steps, [number(row, name) for row in rows])}, last=steps[-1],
              percent=name in ("combined", "agreement"), moments=moments)
        for name, title in LABEL_FREE.items()
        if math.isfinite(steps[-1])
    ]  # fmt: skip
    return {
        "charts": [one for one in charts if one is not None],
        "best": best and _at(best),
        "last": _at(last),
        "selected": run.selection,
    }


def _at(row: Row) -> dict[str, float | str]:
    return {
        "step": row.get("step", "?"),
        "combined": number(row, "combined"),
        "miou": number(row, "target_mIoU"),
    }


def corrected_of(rows: Sequence[Row]) -> list[Corrected]:
    """Corrections summed by class, in the order in which they first came."""
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.get("class", "?"), []).append(row)
    return [_corrected(name, own) for name, own in by_class.items()]


def _corrected(name: str, rows: Sequence[Row]) -> Corrected:
    def total(column: str) -> int:
        values = [number(row, column) for row in rows]
        return int(sum(value for value in values if math.isfinite(value)))

    known = total("known")
    right = [total(column) for column in ("right_before", "right_after")]
    before, after = (part / known if known else math.nan for part in right)
    return Corrected(name, len(rows), total("changed"), total("refused"), before, after)


def _last_round(run: RunFiles) -> str:
    """The picture of the last labels of a method that makes them in rounds."""
    found = sorted((run.folder / "certainty").glob("round_*.png"), key=lambda p: (len(p.name), p))
    return f"certainty/{found[-1].name}" if found else "certainty/round_1.png"


def _picture(run: RunFiles, name: str) -> str | None:
    path = run.folder / name
    if not path.is_file():
        return None
    try:
        return shrunk(read_top(path), 1800)
    except DataError as error:
        log.warning("left out of the page: %s", error)
        return None
