"""What a run was, in a few names and values."""

import shlex
from collections.abc import Iterator
from typing import Any

from sfseg.report.pages.run_files import RunFiles
from sfseg.report.pages.state import state_of

Entry = tuple[str, str]


def identity(run: RunFiles) -> list[Entry]:
    """What ran: names and values, of those that are known."""
    found = [
        ("State", state_of(run)),
        ("Method", method_of(run)),
        ("Data", data_of(run)),
        ("Backbone", _text(run.setting("backbone.network.name"))),
        ("Head", _text(run.setting("backbone.head._target_")).rpartition(".")[2]),
        ("Starts from", _start(run)),
        ("Seed", _text(run.record.get("seed"))),
        ("Tags", ", ".join(map(str, _list(run.record.get("tags"))))),
        ("Command", command_of(run)),
        ("Began", _text(run.record.get("started"))),
        ("Folder", str(run.folder.absolute())),
    ]
    return [(name, value) for name, value in found if value]


def method_of(run: RunFiles) -> str:
    """The word that chooses the method."""
    return _text(run.setting("method._target_")).split(".")[-2:][0]


def data_of(run: RunFiles) -> str:
    """The word that chose the data; where none did, what the target's images are opened by."""
    chosen = [word.partition("=")[2] for word in run.overrides if word.startswith("data=")]
    opener = _text(run.setting("data.scenes.target_eval._target_"))
    return chosen[-1] if chosen else opener.rpartition(".")[2].lower()


def title_of(run: RunFiles) -> str:
    """A name to tell the run from others by."""
    return _text(run.setting("run_name")) or run.folder.absolute().name


def command_of(run: RunFiles) -> str:
    """The command line as a shell takes it."""
    words = [str(word) for word in _list(run.record.get("command"))]
    return shlex.join([words[0].rpartition("/")[2], *words[1:]]) if words else ""


def versions_of(run: RunFiles) -> dict[str, str]:
    """Packages and their versions; empty where they are not known."""
    found = run.record.get("versions")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def environment(run: RunFiles) -> list[Entry]:
    """Versions, and where it ran."""
    git = run.record.get("git")
    found = [("python", _text(run.record.get("python"))), ("host", _text(run.record.get("host")))]
    if isinstance(git, dict):
        state = "with changes" if git.get("dirty") else "without changes"
        found.append(("git", f"{git.get('commit')}, {state}"))
    found += [(name, v) for name, v in versions_of(run).items() if v != "not installed"]
    return [(name, value) for name, value in found if value]


def cost_of(run: RunFiles) -> list[Entry]:
    """What training took."""
    return list(_costs(run.cost))


def _costs(cost: dict[str, Any]) -> Iterator[Entry]:
    minutes, steps = _number(cost, "minutes"), _number(cost, "steps")
    if minutes is not None:
        yield "Training, without evaluations", f"{minutes:,.1f} minutes"
    if minutes is not None and steps:
        yield "A step", f"{60 * minutes / steps:.3g} seconds, mean of {steps:,.0f}"
    if (rate := _number(cost, "images_per_second")) is not None:
        yield "Images a second", f"{rate:,.1f}"
    if (peak := _number(cost, "peak_memory_mib")) is not None:
        kind = "tensors on the GPU" if cost.get("memory") == "cuda" else "the process"
        yield "Peak memory", f"{peak:,.0f} MiB of {kind}"
    total, trained = _number(cost, "parameters"), _number(cost, "trainable_parameters")
    if total and trained is not None:
        yield "Trained parameters", f"{trained:,.0f} of {total:,.0f} ({trained / total:.1%})"
    if (processes := _number(cost, "processes")) is not None:
        yield "Processes", f"{processes:.0f}"


def _number(cost: dict[str, Any], name: str) -> float | None:
    value = cost.get(name)
    return float(value) if isinstance(value, int | float) else None


def _start(run: RunFiles) -> str:
    needs = run.setting("method.needs")
    if not isinstance(needs, list) or "source_model" not in needs:
        return ""
    given = run.setting("source_checkpoint")
    return str(given) if given else "a source model, found or trained before"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return "" if value is None else str(value)
