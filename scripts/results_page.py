"""The page of results: tables and charts, made of the records between the page's markers."""

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results_chart import Point, chart
from results_record import (
    CANCELLED,
    FAILED,
    Record,
    Seed,
    finished_seeds,
    read_record_of,
)
from results_rows import Definitions, Entry, Table
from scipy.stats import spearmanr

import sfseg
from sfseg.errors import ConfigError
from sfseg.report.tables import mean_spread, percent
from sfseg.storage.atomic import write_whole

MARK, END = "<!-- generated:", "<!-- end -->"
MARKED = re.compile(rf"^{MARK} (.+?) -->\n.*?^{END}$", re.DOTALL | re.MULTILINE)
"""A part of the page that is made, with what is asked for."""
HIGHER_IS_BETTER = {"combined": 1, "agreement": 1, "snd": 1, "entropy": -1}
CORRECTED, SETTINGS = ("classes corrected", "right before -> after"), "settings"
"""Titles of columns."""
Records = Mapping[str, Record]
Cells = list[str]


def state_of(record: Record, seeds: Sequence[int]) -> str:
    """How far a row is, in words."""
    found = record["seeds"]
    parts = [f"finished {len(finished_seeds(record))} of {len(seeds)} seeds"]
    parts += [f"seed {k} failed: {s['reason']}" for k, s in found.items() if s["status"] == FAILED]
    parts += [f"seed {k} cancelled" for k, s in found.items() if s["status"] == CANCELLED]
    return "; ".join(parts)


def update_page(docs: Path, rows: Definitions) -> None:
    """Write the page anew, and its charts."""
    for path, text in rendered(docs, rows).items():
        write_whole(path, lambda file, text=text: file.write(text.encode()))


def rendered(docs: Path, rows: Definitions) -> dict[Path, str]:
    """The page and its charts as the records have them, by their files.

    Raises:
        ConfigError: a record cannot be read or has no row, or the page asks for what there is not.
    """
    records = current(docs / "results", rows)
    page = docs / "results.md"
    charts = {
        name: text for name, table in rows.tables.items()
        if table.chart and (text := chart_of(table, records))
    }  # fmt: skip

    def block(found: re.Match[str]) -> str:
        kind, *names = found[1].split()
        if kind not in BLOCKS or not set(names) <= set(rows.tables):
            raise ConfigError(
                f"{page} asks for {found[1]!r}; there are {', '.join(BLOCKS)} of "
                f"{', '.join(rows.tables)}"
            )
        tables = [rows.tables[name] for name in names]
        text = BLOCKS[kind](tables, records, rows)
        return f"{MARK} {found[1]} -->\n\n{text}\n\n{END}"

    before = page.read_text(encoding="utf-8")
    # One that is not closed would take the page along up to the end of the next.
    if any(found[0].count(MARK) > 1 for found in MARKED.finditer(before)) or len(
        MARKED.findall(before)
    ) != before.count(MARK):
        raise ConfigError(f"{page}: every {MARK} ... --> is closed by {END} on a line of its own")
    text = MARKED.sub(block, before)
    files = {docs / "results" / f"{name}.svg": picture for name, picture in charts.items()}
    return {page: text, **files}


def current(folder: Path, rows: Definitions) -> dict[str, Record]:
    """Records by the names of their rows; those of other settings than now are left out.

    Raises:
        ConfigError: one cannot be read, or is of a row that there is not.
    """
    found = {path.stem: read_record_of(path) for path in sorted(folder.glob("*.json"))}
    if lost := set(found) - set(rows.rows):
        raise ConfigError(f"{folder} has records of no row: {sorted(lost)}; remove them")
    return {k: r for k, r in found.items() if r["overrides"] == list(rows.rows[k].overrides)}


def gains(record: Record, domain: str) -> list[float]:
    """What each finished seed has gained in mIoU, as a share, where both models are known."""
    found = [
        miou(seed, domain, "adapted") - miou(seed, domain, "source_only")
        for seed in finished_seeds(record).values()
    ]
    return [gain for gain in found if gain == gain]


def miou(seed: Seed, domain: str, model: str) -> float:
    """A seed's mIoU in [0, 1]; NaN where there is none."""
    value = (seed["scores"][domain][model] or {}).get("summary", {}).get("mIoU")
    return float("nan") if value is None else float(value)


def costs(record: Record, name: str) -> list[float]:
    """What each finished seed that ran in one go has cost."""
    seeds = finished_seeds(record).values()
    return [s["cost"][name] for s in seeds if s["cost"]["steps"] == s["steps"]]


def table_block(tables: Sequence[Table], records: Records, rows: Definitions) -> str:
    """Markdown of tables, one below the other, and what is not in them."""
    return "\n\n".join(table_text(table, records, rows) for table in tables)


def table_text(table: Table, records: Records, rows: Definitions) -> str:
    """Markdown of a table of the rows that were measured, and lines on it and on the others."""
    there = [e for e in table.entries if e.row in records]
    require_judged(table, there, records)
    if not table.in_order:
        there.sort(key=lambda e: -statistics.fmean(gains(records[e.row], table.judged_on) or [-9]))
    has_paper = any(entry.paper for entry in table.entries)
    corrects = any(s["correction"] for e in there for s in finished_seeds(records[e.row]).values())
    header = [
        "row", *["paper"] * has_paper, "runs", "source-only", "adapted", "gain", "worst gain",
        "minutes", "CPU minutes", "peak MiB", "trainable", *CORRECTED[: 2 * corrects],
        SETTINGS,
    ]  # fmt: skip
    lines = [
        cells(e, records[e.row], table.judged_on, rows, has_paper=has_paper, corrects=corrects)
        for e in there
    ]
    parts = [markdown(header, lines)] if lines else []
    return "\n\n".join([*parts, "\n".join(notes(table, there, records, rows))])


def require_judged(table: Table, there: Sequence[Entry], records: Records) -> None:
    """Refuse a table whose rows have no scores of what it is judged on.

    Raises:
        ConfigError: with the sets that there are.
    """
    for entry in there:
        for seed in finished_seeds(records[entry.row]).values():
            if table.judged_on not in seed["scores"]:
                raise ConfigError(
                    f"table {table.name} has judged_on: {table.judged_on}, of which row "
                    f"{entry.row} has no scores; it has those of {', '.join(seed['scores'])}"
                )


def cells(
    entry: Entry, record: Record, domain: str, rows: Definitions, *, has_paper: bool, corrects: bool
) -> Cells:
    """A row of a table."""
    seeds = list(finished_seeds(record).values())
    own = gains(record, domain)
    total = len(set(map(str, rows.seeds)) | set(record["seeds"]))
    before, after = ([miou(s, domain, m) for s in seeds] for m in ("source_only", "adapted"))
    minutes, cpu, peak = (costs(record, n) for n in ("minutes", "cpu_minutes", "peak_memory_mib"))
    settings = [o for o in record["overrides"] if o not in rows.every]
    return [
        f"[{entry.words}](results/{entry.row}.json)",
        *[f"{entry.paper:.2f}" if entry.paper else "-"] * has_paper,
        str(len(seeds)) if len(seeds) == total else f"{len(seeds)} of {total}",
        mean_spread(before) if seeds else "-",
        mean_spread(after) if seeds else failed_or_cancelled(record),
        mean_spread(own, signed=True) if own else "-",
        percent(min(own), signed=True) if own else "-",
        f"{statistics.fmean(minutes):.1f}" if minutes else "-",
        f"{statistics.fmean(cpu):.1f}" if cpu else "-",
        f"{max(peak):,.0f}" if peak else "-",
        f"{seeds[0]['cost']['trainable_parameters']:,}" if seeds else "-",
        *(corrected(seeds) if corrects else []),
        f"`{' '.join(settings)}`",
    ]


def failed_or_cancelled(record: Record) -> str:
    """What has become of a row without scores."""
    return "failed" if any(s["status"] == FAILED for s in record["seeds"].values()) else CANCELLED


def corrected(seeds: Sequence[Seed]) -> Cells:
    """How many classes had labels corrected, and how many of these were right before and after."""
    found = [s["correction"] for s in seeds if s["correction"] and s["correction"]["known"]]
    if not found:
        return ["-", "-"]
    classes = [c["classes"] for c in found]
    right = [
        statistics.fmean(c[f"right_{when}"] / c["known"] for c in found)
        for when in ("before", "after")
    ]
    return [f"{min(classes)} to {max(classes)}", f"{right[0]:.0%} -> {right[1]:.0%}"]


def notes(
    table: Table, there: Sequence[Entry], records: Records, rows: Definitions
) -> Iterator[str]:
    """What a reader must know of a table: what is missing, what failed, and how it was measured."""
    seeds = [s for e in there for s in finished_seeds(records[e.row]).values()]
    version = sfseg.__version__
    measured = [
        e for e in there
        if (own := finished_seeds(records[e.row])).keys() >= set(map(str, rows.seeds))
        and all(s["sfseg"]["version"] == version for s in own.values())
    ]  # fmt: skip
    count = f"{len(measured)} of {len(table.entries)} rows are measured with sfseg {version}"
    not_yet = [f"`{e.row}`" for e in table.entries if e not in measured]
    yield f"- {count}" + (
        f"; not yet, or not with every seed: {', '.join(not_yet)}." if not_yet else "."
    )
    for entry in there:
        for key, seed in records[entry.row]["seeds"].items():
            if seed["status"] == FAILED:
                yield f"- **`{entry.row}`, seed {key}, failed**: {quoted(seed['reason'])}"
            elif seed["status"] == CANCELLED:
                yield f"- `{entry.row}`, seed {key}, was cancelled."
    if seeds:
        yield f"- Evaluation: {unique(s['protocol'] for s in seeds)}; weights: " + (
            f"{unique(s['checkpoint'] for s in seeds)}."
        )
        yield f"- Measured on {unique(map(machine, seeds))}; commit {unique(map(commit, seeds))}."


def quoted(text: str) -> str:
    """Text as code, in which nothing is markup."""
    return f"`{text.replace('`', chr(39))}`"


def machine(seed: Seed) -> str:
    """What a run has run on, in words."""
    own = seed["machine"]
    threads = "one thread" if own["threads"] == 1 else f"{own['threads']} threads"
    device = "" if own["device"] == "cpu" else f", {own['device']}"
    torch = seed["versions"]["torch"]
    return f"{own['processor']} ({own['cores']} cores, {threads}{device}), torch {torch}"


def commit(seed: Seed) -> str:
    """The commit of a run, in words."""
    git = seed["sfseg"]
    if git["commit"] is None:
        return "unknown"
    return f"`{git['commit'][:10]}`" + (" **with changes of its own**" if git["dirty"] else "")


def unique(texts: Iterator[str] | Sequence[str]) -> str:
    """Different texts in their order."""
    return "; ".join(dict.fromkeys(texts))


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose cells may be links; numbers are aligned right, settings are none."""
    rule = ["---", *("---" if title == SETTINGS else "---:" for title in header[1:])]
    return "\n".join(f"| {' | '.join(own)} |" for own in [header, rule, *lines])


def score_block(tables: Sequence[Table], records: Records, rows: Definitions) -> str:
    """Markdown: what every label-free score knows of the mIoU, over all evaluations of tables."""
    names = dict.fromkeys(e.row for t in tables for e in t.entries if e.row in records)
    runs = [list(points(s)) for n in names for s in finished_seeds(records[n]).values()]
    runs = [run for run in runs if len(run) > 1]
    if not runs:
        return "Nothing is measured yet."
    lines = [[score, *worth([[(sign * p[score], p["target_mIoU"]) for p in run] for run in runs])]
             for score, sign in HIGHER_IS_BETTER.items()]  # fmt: skip
    header = ["score", "rank correlation", "within a run, mean", "below the best of the run",
              "last below it"]  # fmt: skip
    count = f"{sum(map(len, runs))} evaluations of {len(runs)} runs:"
    return f"{count}\n\n{markdown(header, lines)}"


def points(seed: Seed) -> Iterator[dict[str, float]]:
    """Evaluations of a run whose mIoU is known."""
    columns: dict[str, list[Any]] = seed["curve"]
    for values in zip(*columns.values(), strict=True):
        point = dict(zip(columns, values, strict=True))
        if point["target_mIoU"] is not None:
            yield point


def worth(runs: Sequence[Sequence[tuple[float, float]]]) -> Cells:
    """Rank correlations of a score with the mIoU, and what is lost by going by it or by none."""
    overall = spearmanr(*zip(*[pair for run in runs for pair in run], strict=True)).statistic
    inside = [spearmanr(*zip(*run, strict=True)).statistic for run in runs if len(run) > 2]
    inside = [value for value in inside if value == value]
    behind = [max(m for _, m in run) - max(run)[1] for run in runs]
    last = [max(m for _, m in run) - run[-1][1] for run in runs]
    within = f"{statistics.fmean(inside):.2f}" if inside else "-"
    return [f"{overall:.2f}", within, mean_spread(behind), mean_spread(last)]


def chart_block(tables: Sequence[Table], records: Records, rows: Definitions) -> str:
    """Links to the charts of tables."""
    shown = [t for t in tables if chart_of(t, records)]
    return "\n\n".join(
        f"![Gains and costs of {t.name}](results/{t.name}.svg)" for t in shown
    ) or "Nothing is measured yet."  # fmt: skip


def chart_of(table: Table, records: Records) -> str:
    """Gain against cost as SVG; empty where nothing can be shown."""
    panels: dict[str, list[Point]] = {"CPU minutes": [], "peak MiB": []}
    for entry in table.entries:
        record = records.get(entry.row)
        own = [] if record is None else gains(record, table.judged_on)
        if record is None or not own:
            continue
        cpu, peak = costs(record, "cpu_minutes"), costs(record, "peak_memory_mib")
        if not cpu:
            continue
        gain, spread = 100 * statistics.fmean(own), 100 * (statistics.stdev(own) if own[1:] else 0)
        panels["CPU minutes"].append(Point(entry.words, statistics.fmean(cpu), gain, spread))
        panels["peak MiB"].append(Point(entry.words, max(peak), gain, spread))
    return chart(panels, y="gain in mIoU") if panels["peak MiB"] else ""


BLOCKS: dict[str, Callable[[Sequence[Table], Records, Definitions], str]] = {
    "table": table_block,
    "scores": score_block,
    "chart": chart_block,
}
"""What the page may ask for between its markers."""
