"""Reasons to distrust a run's numbers: each sentence is computed, and there only if it holds."""

import math
from collections.abc import Iterator

from sfseg import __version__
from sfseg.report.pages.alarms import picked
from sfseg.report.pages.classes import rows_of
from sfseg.report.pages.csv_files import number
from sfseg.report.pages.headline import versions_of
from sfseg.report.pages.run_files import RunFiles
from sfseg.report.pages.state import adapts, reached, steps_of
from sfseg.report.tables import percent

FEW_IMAGES = 100
RARE = 1e-3
"""Share of the labelled pixels below which the IoU of a class says little."""
FELL = 0.01
"""Loss of IoU of a class that is named."""
NAMED = 8


def doubts(run: RunFiles) -> list[str]:
    """Sentences, those that weigh most first."""
    return [
        *_of_end(run), *_of_labels(run), *_of_selection(run), *_of_size(run), *_of_classes(run),
        *_of_origin(run), *(f"Not used, because it is damaged: {text}" for text in run.damaged),
    ]  # fmt: skip


def _of_end(run: RunFiles) -> Iterator[str]:
    if not run.is_finished:
        done, planned = reached(run), steps_of(run)
        of = f" of {planned:,}" if planned else ""
        kind = "is going on" if run.is_open else "has not ended"
        yield f"The run {kind}: step {done:,}{of}; what is below is not its result."
    if run.is_finished and not run.scores:
        yield "There are no final scores: results.json is missing or not readable."


def _of_labels(run: RunFiles) -> Iterator[str]:
    for domain, one in run.scores.items():
        if not one.is_labelled:
            yield (
                f"{domain} has no labels, so nothing here measures accuracy; the label-free score "
                "and the pictures are all there is."
            )
    needs = run.setting("method.needs")
    if isinstance(needs, list) and "target_labels" in needs:
        yield "The method was trained on the target's labels: an upper bound, no adaptation."


def _of_selection(run: RunFiles) -> Iterator[str]:
    if run.selection.get("mode") == "oracle":
        yield (
            f"The weights of step {run.selection['step']} were picked with the target's labels "
            "(select=oracle), which nobody has in use: the scores are an upper bound."
        )
    best = picked(run.label_free)
    last = run.label_free[-1] if run.label_free else {}
    is_last = run.selection.get("mode") is None
    if best is not None and is_last and best.get("step") != last.get("step"):
        yield (
            f"The label-free score prefers step {best.get('step')} "
            f"({number(best, 'combined'):.3f}) to the last one, {last.get('step')} "
            f"({number(last, 'combined'):.3f}), which the table shows; select=label_free takes it."
        )


def _of_size(run: RunFiles) -> Iterator[str]:
    seed = run.record.get("seed")
    if run.scores:
        yield (
            f"One run with one seed ({seed}): how far another seed would end from here is not "
            "known. sfseg-train -m seed=0,1,2 and sfseg-compare say it."
        )
    for domain, number_of in run.images.items():
        if number_of < FEW_IMAGES:
            yield f"{domain}: the scores are of only {number_of} images."


def _of_classes(run: RunFiles) -> Iterator[str]:
    for domain, one in run.scores.items():
        if not one.is_labelled:
            continue
        rows = [row for row in rows_of(run, domain) if not row.is_mean]
        if rare := [row.name for row in rows if 0 < row.labelled < RARE]:
            yield (
                f"{domain}: {_some(rare)} have less than 0.1 % of the labelled pixels each, so a "
                "few objects decide their IoU."
            )
        if absent := [row.name for row in rows if math.isnan(row.after) or row.labelled == 0]:
            yield f"{domain}: {_some(absent)} do not occur in the labels, so nothing tests them."
        if never := [row.name for row in rows if row.after == 0 and row.labelled > 0]:
            yield f"{domain}: not one pixel of {_some(never)} is found (IoU 0)."
        if fell := sorted((r for r in rows if r.gain < -FELL), key=lambda row: row.gain):
            words = [f"{row.name} ({percent(row.gain, signed=True)})" for row in fell]
            rose = one.before is not None and one.summary["mIoU"] > one.before[0]["mIoU"]
            what = "the mean rose and hides classes that" if rose else "classes that"
            yield f"{domain}: {what} got worse: {_some(words)}."
        if one.before is None and adapts(run):
            yield f"{domain}: there are no scores of the source model, so no gain can be said."


def _of_origin(run: RunFiles) -> Iterator[str]:
    version = versions_of(run).get("sfseg")
    if version is not None and version != __version__:
        yield f"The run is of sfseg {version}, this page of {__version__}: settings may differ."
    if version is None:
        yield "run.json does not say which version of sfseg made the run."
    git = run.record.get("git")
    if isinstance(git, dict) and git.get("dirty"):
        yield (
            f"Files differed from commit {str(git.get('commit'))[:10]}, or others lay beside them, "
            "when the run began, so the commit alone does not give it again."
        )
    restarts = run.record.get("restarts")
    if isinstance(restarts, list) and restarts:
        yield f"The run was continued {len(restarts)} times; its cost is that of the last part."
    if ".toyscapes." in str(run.setting("data.scenes.target_eval._target_")):
        yield "The data are drawn scenes, not photographs."


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
