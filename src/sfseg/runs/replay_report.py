"""What a replay of a training step has found, on the terminal."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sfseg.callbacks.diagnosis import Share
from sfseg.report import tables
from sfseg.runs.replay import Replayed
from sfseg.types import IGNORE

log = logging.getLogger(__name__)
Rows = list[list[str]]
MOST = 12
"""A table names so many modules or parameters."""


def show(found: Replayed) -> None:
    """Draw the tables, then say what has come out."""
    kept = found.step.content
    log.info("%s", found.step.path)
    log.info("in the run: %s", kept["failure"])
    tables.show("The batch", ["images", "positions", *_KINDS], _batches(kept["batches"]))
    tables.show("The loss", ["term", "in the run", "now"], _losses(found))
    modules = [[o.name, o.kind, *_shares(o.output), _number(o.entering)] for o in found.origins]
    header = ["module", "class", "NaN", "infinite", "largest input"]
    _show_some("Modules out of which comes what is not finite", header, modules)
    gradients = [[name, *_shares(share)] for name, share in found.gradients.items()]
    _show_some("Gradients that are not finite", ["parameter", "NaN", "infinite"], gradients)
    for note in found.notes:
        log.info("note: %s", note)
    log.info("%s", found.verdict)


_KINDS = ("image", "label", "pseudo_label")


def _show_some(title: str, header: list[str], rows: Rows) -> None:
    if not rows:
        log.info("%s: none", title)
        return
    more = f", the first {MOST} of {len(rows)}" * (len(rows) > MOST)
    tables.show(f"{title}{more}", header, rows[:MOST])


def _batches(batches: list[Mapping[str, Any]]) -> Rows:
    """A row for each domain of each batch."""
    rows = []
    for k, part in enumerate(batches, start=1):
        for domain, images in part["batch"].items():
            name = f"{domain}, batch {k} of {len(batches)}" if len(batches) > 1 else domain
            index = ", ".join(map(str, images["index"].tolist()))
            rows.append([name, index, *(_range(images.get(kind)) for kind in _KINDS)])
    return rows


def _range(values: Tensor | None) -> str:
    """Least and largest value, of labels that are there and the share of those that are."""
    if values is None:
        return "-"
    known = values if values.ndim == 4 else values[values != IGNORE]
    if not known.numel():
        return "void"
    text = f"{float(known.min()):g} to {float(known.max()):g}"
    void = 1 - known.numel() / values.numel()
    return f"{text}, {tables.percent(void)} % void" if void else text


def _losses(found: Replayed) -> Rows:
    """A row for each term of each backward pass, whether it was in the run or is now."""
    rows = []
    count = max(len(found.before), len(found.now))
    for k in range(count):
        before, now = (passes[k] if k < len(passes) else {} for passes in (found.before, found.now))
        for name in dict.fromkeys([*before, *now]):
            term = f"{name}, pass {k + 1} of {count}" if count > 1 else name
            rows.append([term, *(_value(values.get(name)) for values in (before, now))])
    return rows


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.9g}"


def _shares(share: Share) -> list[str]:
    return [f"{tables.percent(part)} %" for part in (share.nan, share.infinite)]


def _number(share: Share) -> str:
    return f"{share.largest:.4g}" if share.is_finite else "not finite"
