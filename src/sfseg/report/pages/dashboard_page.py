"""The dashboard as a page: the layout's panels as drawings of what runs have logged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfseg import __version__
from sfseg.errors import DataError
from sfseg.report.dashboard import Panel, Section, layout
from sfseg.report.logged_run import LoggedRun
from sfseg.report.pages.csv_files import Columns
from sfseg.report.pages.curves import Chart, Curve, chart
from sfseg.report.pages.pictures import shrunk
from sfseg.report.pages.png_top import read_top

COLOURS = 8
"""Runs that differ by colour; of more, the next ones are dashed."""


@dataclass
class Bars:
    """Last values: names, and of each the value of each run, NaN where it has none."""

    title: str
    rows: list[tuple[str, list[float]]]
    is_share: bool


@dataclass
class Drawn:
    """A section of the page; ``missing``: panels in which nothing could be drawn."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    axis: str = "training steps"


def layout_of(runs: Sequence[LoggedRun], *, compares: bool) -> list[Section]:
    """The layout for what any of some runs has logged."""
    return layout(
        (name for run in runs for name in run.metrics.values),
        pictures=(name for run in runs for name in run.pictures),
        system=(name for run in runs for name in run.system.values),
        compares=compares,
    )


def context(runs: Sequence[LoggedRun]) -> dict[str, Any]:
    """All that the template of the page names."""
    sections = layout_of(runs, compares=len(runs) > 1)
    return {
        "title": runs[0].label if len(runs) == 1 else f"Dashboard of {len(runs)} runs",
        "version": __version__,
        "runs": runs,
        "sections": [draw(section, runs) for section in sections],
        "colours": COLOURS,
    }


def draw(section: Section, runs: Sequence[LoggedRun]) -> Drawn:
    """The drawings of a section."""
    found = Drawn(section.title)
    for panel in section.panels:
        if panel.kind == "pictures":
            _add_pictures(found, panel, runs)
        elif panel.kind == "bars":
            found.bars.append(bars(panel, runs))
        elif (drawing := _chart(panel, runs)) is not None:
            found.charts.append(drawing)
        else:
            found.missing.append(f"{panel.title}: no finite value")
    if any(panel.kind == "system" for panel in section.panels):
        found.axis = "seconds since the start"
    return found


def bars(panel: Panel, runs: Sequence[LoggedRun]) -> Bars:
    """The last value of each metric in each run."""
    rows = [
        (_short(panel, name), [_last(run.metrics, name) for run in runs]) for name in panel.names
    ]
    return Bars(panel.title, rows, panel.is_share)


def _chart(panel: Panel, runs: Sequence[LoggedRun]) -> Chart | None:
    """Lines of a panel: runs, or metrics of one; each keeps its place, and with it its colour."""
    read: Callable[[LoggedRun], Columns] = (
        (lambda run: run.system) if panel.kind == "system" else (lambda run: run.metrics)
    )
    if len(runs) == 1:
        lines = {_short(panel, name): (runs[0], name) for name in panel.names}
    else:
        lines = {run.label: (run, name) for run in runs for name in panel.names}
    series = {
        label: (read(run).steps.get(name, ()), read(run).values.get(name, ()))
        for label, (run, name) in lines.items()
    }
    last = max((read(run).last_step or 0 for run in runs), default=0)
    found = chart(panel.title, series, last=float(last), percent=panel.is_share)
    if found is not None:
        drawn = {curve.name: curve for curve in found.curves}
        found.curves = [drawn.get(name, Curve(name, first="-", last="-")) for name in lines]
    return found


def _add_pictures(found: Drawn, panel: Panel, runs: Sequence[LoggedRun]) -> None:
    """The newest picture of each run, once, however many names W&B gives to its parts."""
    for run in runs:
        path = run.newest_picture(panel.names[0])
        caption = f"{run.label}: {path.relative_to(run.folder)}" if path else ""
        if path is None and panel.names[0] in run.pictures:
            found.missing.append(f"{panel.title}: {run.folder} holds no such picture")
        elif path is not None and caption not in [known for known, _ in found.pictures]:
            try:
                found.pictures.append((caption, shrunk(read_top(path))))
            except (DataError, OSError) as error:
                found.missing.append(f"{panel.title}: {error}")


def _last(columns: Columns, name: str) -> float:
    """The value of the largest step, and of several of these the one that was logged last."""
    steps = columns.steps.get(name, ())
    at = max(range(len(steps)), key=lambda k: (steps[k], k), default=None)
    return math.nan if at is None else columns.values[name][at]


def _short(panel: Panel, name: str) -> str:
    """The part of a name by which it differs from the others of its panel."""
    if len(panel.names) == 1:
        return name
    parts = [one.split("/") for one in panel.names]
    own, shortest = name.split("/"), min(map(len, parts))
    shared = next((k for k in range(shortest) if len({one[k] for one in parts}) > 1), shortest - 1)
    return "/".join(own[shared:])
