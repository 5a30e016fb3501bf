"""Methods that see the source's labels on one task: UPLR's ladder, and others beside it.

    python scripts/with_source_tables.py logs/ladder eval_every=300 --jobs 2
    python scripts/with_source_tables.py logs/camvid data=camvid_day_to_dusk data.root=<folder>

Settings after the folder go to every run. Runs that have finished are not run again and those
that were interrupted go on, so it may be stopped and started. Prints markdown: mean and sample
standard deviation over seeds of the last checkpoint, in mIoU, beside the gain of the same row of
UPLR's slides from GTA5 to Cityscapes.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from source_free_tables import finished, parser_of, run_rows
from uniuvpt_tables import spread

UNIFORM, PLAIN = "data/sampler=uniform", "data/translation=none"
ALIGNED, ALL_CLASSES = "method.rounds=0", "method.k=null"
LADDER: dict[str, tuple[str, ...]] = {
    "uplr, AA": ("method=uplr", PLAIN, UNIFORM, ALL_CLASSES, ALIGNED),
    "uplr, IT": ("method=uplr", UNIFORM, ALL_CLASSES, ALIGNED),
    "uplr, SR": ("method=uplr", ALL_CLASSES, ALIGNED),
    "uplr, TGAA": ("method=uplr", ALIGNED),
    "uplr, UPST": ("method=uplr",),
}
BESIDE: dict[str, tuple[str, ...]] = {
    name: (f"method={name}",)
    for name in (
        "adaptsegnet", "advent", "advent_minent", "fda", "dacs", "daformer", "hrda", "mic",
        "mean_teacher",
    )
}  # fmt: skip
SLIDES = {"uplr, AA": 42.9, "uplr, IT": 45.3, "uplr, SR": 46.1, "uplr, TGAA": 48.8,
          "uplr, UPST": 52.6}  # fmt: skip
SLIDES_SOURCE_ONLY = 36.6


def table(folder: Path, rows: Sequence[str], seeds: Sequence[int]) -> str:
    """Markdown, in the order of ``rows``; those without a finished run are left out."""
    lines = [
        "| method | slides | runs | source-only | adapted | gain | gains by seed | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in rows:
        found = finished(folder, name, seeds)
        if not found:
            continue
        gains = [o.after - o.before for o in found]
        slides = f"{gain:+.1f}" if (gain := SLIDES.get(name, 0) - SLIDES_SOURCE_ONLY) > 0 else "-"
        lines.append(
            f"| {name} | {slides} | {len(found)} | {spread([o.before for o in found])} | "
            f"{spread([o.after for o in found])} | {spread(gains)} | "
            f"{', '.join(f'{gain:+.2f}' for gain in gains)} | "
            f"{statistics.fmean(o.minutes for o in found):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    arguments, rows = parser.parse_args(), LADDER | BESIDE
    folder = run_rows(parser, arguments, rows)
    print(f"\n{table(folder, list(rows), arguments.seeds)}")


if __name__ == "__main__":
    main()
