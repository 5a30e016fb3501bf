"""How far a run has come."""

import math

from sfseg.report.pages.csv_files import number
from sfseg.report.pages.run_files import RunFiles


def steps_of(run: RunFiles) -> int | None:
    """Optimiser steps that the run was to do; None where that is not known."""
    steps = run.setting("trainer.max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def reached(run: RunFiles) -> int:
    """The last step that it has written anything of."""
    logged = run.metrics.last_step
    found = [0 if logged is None else logged + 1, *run.panels]
    scored = (number(row, "step") for row in run.label_free)
    found += [int(step) for step in scored if math.isfinite(step)]
    last = max(found)
    return last if (planned := steps_of(run)) is None else min(last, planned)


def state_of(run: RunFiles) -> str:
    """Whether it is finished, in words."""
    planned, done = steps_of(run), reached(run)
    of = f" of {planned:,}" if planned else ""
    if run.is_finished:
        return f"finished, {planned or done:,} steps"
    if run.is_open:
        return f"going on, at step {done:,}{of}"
    if not run.record:
        return "not known: there is no run.json"
    return f"ended before its end, after step {done:,}{of}; resume=auto goes on with it"


def adapts(run: RunFiles) -> bool:
    """Whether a run's method goes on from another model, or sees images of the target.

    Of one whose settings are not known, too.
    """
    needs = run.setting("method.needs")
    return not isinstance(needs, list) or bool({"target", "source_model"} & set(needs))
