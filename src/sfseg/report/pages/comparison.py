"""Several runs beside each other: those of equal settings but the seed as one."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sfseg import __version__
from sfseg.errors import DataError
from sfseg.nesting import leaves
from sfseg.report.pages.headline import title_of, versions_of
from sfseg.report.pages.run_files import RunFiles
from sfseg.report.pages.state import state_of
from sfseg.report.scores_file import Scored
from sfseg.report.tables import mean_spread

SEEDS = ("seed", "data.shot_seed")
"""Settings over which results are means."""
FREE = (*SEEDS, "run_name", "resume", "tags", "report", "output_dir")
"""Settings in which runs of one group may differ."""
ABSENT = "not there"
BARS = 8
"""Groups whose bars are drawn."""


@dataclass
class Group:
    """Runs of equal settings but the seed, scored on one set by one protocol."""

    label: str
    runs: list[RunFiles]
    domain: str
    settings: dict[str, Any]

    @property
    def scored(self) -> list[Scored]:
        return [run.scores[self.domain] for run in self.runs]

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.record.get("seed", "?")) for run in self.runs)

    @property
    def after(self) -> str:
        return mean_spread([one.summary["mIoU"] for one in self.scored])

    @property
    def before(self) -> str:
        return mean_spread([_before(one) for one in self.scored])

    @property
    def gain(self) -> str:
        gains = [one.summary["mIoU"] - _before(one) for one in self.scored]
        return mean_spread(gains, signed=True)

    def cost(self, name: str) -> float:
        """Mean of a measured cost; NaN where a run has none."""
        values = [run.cost.get(name) for run in self.runs]
        known = [float(value) for value in values if isinstance(value, int | float)]
        return fmean(known) if len(known) == len(self.runs) else math.nan

    def iou(self, name: str) -> float:
        """Mean IoU of a class over the runs; NaN where one has none."""
        return fmean(one.iou[name] for one in self.scored)

    def old_iou(self, name: str) -> float:
        """That of the source models."""
        return fmean(one.before[1].get(name, math.nan) if one.before else math.nan
                     for one in self.scored)  # fmt: skip

    def single(self) -> Iterator[tuple[RunFiles, float, float]]:
        """Each run, its scores before and after."""
        for run, one in zip(self.runs, self.scored, strict=True):
            yield run, _before(one), one.summary["mIoU"]


@dataclass
class Table:
    """Groups that were judged on one set by one protocol."""

    domain: str
    protocol: str
    classes: list[str]
    groups: list[Group]


@dataclass
class Comparison:
    """Tables, one for each protocol, and what is beside them."""

    tables: list[Table]
    differences: list[tuple[str, list[str]]]
    unscored: list[tuple[str, str]]
    warnings: list[str] = field(default_factory=list)

    @property
    def shared(self) -> list[tuple[str, list[str]]]:
        """Differences in settings that all groups have."""
        return [one for one in self.differences if ABSENT not in one[1]]

    @property
    def single(self) -> list[tuple[str, list[str]]]:
        """Those in settings that some groups do not have."""
        return [one for one in self.differences if ABSENT in one[1]]

    @property
    def groups(self) -> list[Group]:
        return [group for table in self.tables for group in table.groups]


def compare(runs: Sequence[RunFiles]) -> Comparison:
    """Compare runs.

    Raises:
        DataError: they have scores of other classes.
    """
    judged = [(run, domain) for run in runs if (domain := _judged(run)) is not None]
    _require_classes(judged)
    tables: dict[tuple[str, str], Table] = {}
    groups: dict[tuple[str, str, str], Group] = {}
    for run, domain in judged:
        protocol = protocol_of(run, domain)
        settings = settings_of(run)
        key = (domain, protocol, _key(run, settings))
        if key in groups:
            groups[key].runs.append(run)
            continue
        table = tables.setdefault(
            key[:2], Table(domain, protocol, list(run.scores[domain].iou), [])
        )
        groups[key] = Group(re.sub(r"-s\d+$", "", title_of(run)), [run], domain, settings)
        table.groups.append(groups[key])
    scored = {id(run) for run, _ in judged}
    unscored = [(_folder(run), _why(run)) for run in runs if id(run) not in scored]
    found = Comparison(list(tables.values()), [], unscored)
    # In the order of the tables, which is that of the page's columns.
    found.differences = differences(found.groups)
    _name_apart(found)
    found.warnings = list(_warnings(found))
    return found


def context(found: Comparison) -> dict[str, Any]:
    """All that the template of the page names."""
    number = sum(len(group.runs) for group in found.groups) + len(found.unscored)
    return {
        "title": f"Comparison of {number} runs",
        "version": __version__,
        "found": found,
        "bars": BARS,
    }


def settings_of(run: RunFiles) -> dict[str, Any]:
    """Settings by their full names, but for those in which runs of a group may differ."""
    known = leaves(run.config) if run.config else ()
    return {name: value for name, value in known if name not in FREE}


def protocol_of(run: RunFiles, domain: str) -> str:
    """What the scores stand for; of selected weights how, not which step it came to be."""
    text = run.scores[domain].protocol
    return re.sub(r", step \d+$", "", text) if run.selection else text


def differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all groups, and their values in each."""
    names = dict.fromkeys(name for group in groups for name in group.settings)
    found = []
    for name in sorted(names):
        values = [str(group.settings.get(name, ABSENT)) for group in groups]
        if len(set(values)) > 1:
            found.append((name, values))
    return found


def _before(one: Scored) -> float:
    return one.before[0]["mIoU"] if one.before else math.nan


def _judged(run: RunFiles) -> str | None:
    """The set that a run is judged by, where it has labels."""
    name = run.judged
    return name if name is not None and run.scores[name].is_labelled else None


def _folder(run: RunFiles) -> str:
    return f"{title_of(run)} ({run.folder})"


def _why(run: RunFiles) -> str:
    if run.judged:
        return f"{run.judged} has no labels"
    lost = "; results.json is missing or not readable" if run.is_finished else ""
    return state_of(run) + lost


def _key(run: RunFiles, settings: dict[str, Any]) -> str:
    """Equal for runs of equal settings; of a run whose settings are not known, its own."""
    return json.dumps(settings, sort_keys=True, default=str) if settings else str(run.folder)


def _require_classes(judged: Sequence[tuple[RunFiles, str]]) -> None:
    first: tuple[RunFiles, list[str]] | None = None
    for run, domain in judged:
        names = list(run.scores[domain].iou)
        first = first or (run, names)
        if names != first[1]:
            ours, others = (
                sorted(set(a) - set(b)) for a, b in ((first[1], names), (names, first[1]))
            )
            apart = "; ".join(
                f"only in {where.folder}: {', '.join(some)}"
                for where, some in ((first[0], ours), (run, others))
                if some
            )
            raise DataError(
                f"{run.folder} has scores of other classes than {first[0].folder}: "
                f"{apart or 'the same names in another order'}; means over other classes cannot be "
                "compared, name runs of one label space"
            )


def _name_apart(found: Comparison) -> None:
    """Groups of one name get those settings that tell them apart."""
    groups = found.groups
    names = [group.label for group in groups]
    for k, group in enumerate(groups):
        if names.count(names[k]) > 1:
            alike = [i for i, name in enumerate(names) if name == names[k]]
            apart = [(name, values) for name, values in [*found.shared, *found.single]
                     if len({values[i] for i in alike}) > 1]  # fmt: skip
            words = [f"{name}={values[k]}" for name, values in apart[:3]]
            group.label = f"{group.label} ({', '.join(words)})" if words else _folder(group.runs[0])


def _warnings(found: Comparison) -> Iterator[str]:
    if len(found.tables) > 1:
        yield (
            f"The runs were scored by {len(found.tables)} different protocols or on different "
            "sets, so there is a table for each: their numbers must not be compared."
        )
    for table in found.tables:
        yield from _of_table(table)
    runs = [run for group in found.groups for run in group.runs]
    versions = {versions_of(run).get("sfseg", "unknown") for run in runs}
    if len(versions) > 1:
        yield f"The runs are of several versions of sfseg: {', '.join(sorted(versions))}."
    hosts = {str(run.record.get("host", "unknown")) for run in runs}
    if len(hosts) > 1:
        yield f"Minutes and memory are of {len(hosts)} machines: they say little beside each other."
    for run in runs:
        if not run.is_finished:
            yield f"{_folder(run)}: {state_of(run)}; its scores are of an earlier end."


def _of_table(table: Table) -> Iterator[str]:
    before = {round(_before(one), 6) for group in table.groups for one in group.scored}
    known = sorted(value for value in before if not math.isnan(value))
    if len(known) > 1 and any(len(group.runs) == 1 for group in table.groups):
        yield (
            f"{table.domain}: the source models differ ({100 * known[0]:.2f} to "
            f"{100 * known[-1]:.2f} % mIoU), so a gain may be that of another start."
        )
    if single := [group.label for group in table.groups if len(group.runs) == 1]:
        yield (
            f"{table.domain}: one seed only of {', '.join(single[:4])}"
            f"{', ...' if single[4:] else ''}: no spread is known, small differences mean nothing."
        )
    for group in table.groups:
        seeds = [tuple(run.setting(name) for name in SEEDS) for run in group.runs]
        if len(set(map(str, seeds))) < len(seeds):
            yield (
                f"{table.domain}: {group.label} holds several runs of the same seed "
                f"({group.seeds}): these only repeat it, so the spread is too small."
            )
    images = {run.images[table.domain] for group in table.groups for run in group.runs
              if table.domain in run.images}  # fmt: skip
    if len(images) > 1:
        yield f"{table.domain}: scores are of different numbers of images: {sorted(images)}."
    if "(oracle)" in table.protocol:
        yield f"{table.domain}: weights were picked with the target's labels, an upper bound."
